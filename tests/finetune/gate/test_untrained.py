import pytest
import torch

from lowrung.finetune.gate import untrained
from lowrung.finetune.gate.case import Evidence
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models.ends import Ends
from tests import architectures

CPU = torch.device("cpu")
ROWS = [{"input_ids": [*range(1, n)], "labels": [-100, *range(2, n)]} for n in (9, 5, 12)]


class Base:
    """A base that counts how often it is loaded."""

    def __init__(self):
        self.loads = 0
        self.model = architectures.random_model(architectures.CONFIGS["tied llama"]).eval()

    def __call__(self):
        self.loads += 1
        return self.model

    def of(self, folder, rows=ROWS, new_tokens=0):
        evidence = Evidence(rows, torch.zeros(sum(len(row["labels"]) - 1 for row in rows), 264), torch.float32, Ends())
        return untrained.untrained(self, evidence, folder, CPU, new_tokens)


@pytest.fixture
def base():
    return Base()


def test_the_base_is_computed_once_for_the_same_rows(base, tmp_path):
    first, again = base.of(tmp_path), base.of(tmp_path)
    assert base.loads == 1
    assert torch.equal(first.logits, completion_logits(base.model, ROWS)[0])
    assert torch.equal(first.logits, again.logits)
    assert first.was_tied is again.was_tied is True


@pytest.mark.parametrize(
    "rows", [ROWS[:2], ROWS[::-1], [*ROWS, ROWS[0]], [{**ROWS[0], "labels": [-100] * 3 + [*range(4, 9)]}]]
)
def test_other_rows_are_computed_apart(base, tmp_path, rows):
    base.of(tmp_path)
    assert torch.equal(base.of(tmp_path, rows).logits, completion_logits(base.model, rows)[0])
    assert base.loads == 2


def test_whether_it_reads_branches_is_known_of_branches_as_long(base, tmp_path):
    assert [base.of(tmp_path, new_tokens=tokens).branches_with for tokens in (0, 4, 4, 5)] == ["", *["sdpa"] * 3]
    assert base.loads == 3


@pytest.mark.parametrize("spoil", [lambda file: file[:-100], lambda file: b"", lambda file: file[:-5000] + bytes(5000)])
def test_a_file_that_is_not_whole_is_computed_again(base, tmp_path, spoil):
    right = base.of(tmp_path).logits
    (file,) = tmp_path.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert torch.equal(base.of(tmp_path).logits, right)
    assert torch.equal(base.of(tmp_path).logits, right)
    assert base.loads == 2


def test_two_that_compute_it_at_once_both_write_it(base, tmp_path):
    class Slower(Base):
        def __call__(self):
            base.of(tmp_path)  # another run, before this one has written its own
            return super().__call__()

    slower = Slower()
    slower.model = base.model
    assert torch.equal(slower.of(tmp_path).logits, base.of(tmp_path).logits)
    assert (base.loads, slower.loads, len([*tmp_path.iterdir()])) == (1, 1, 1)


def test_what_is_larger_than_the_bound_is_not_kept(base, tmp_path, monkeypatch):
    monkeypatch.setattr(untrained, "KEPT_BYTES", 19 * 264 * 4)  # of 20 tokens
    assert torch.equal(base.of(tmp_path).logits, base.of(None).logits)
    assert (base.loads, [*tmp_path.iterdir()]) == (2, [])
