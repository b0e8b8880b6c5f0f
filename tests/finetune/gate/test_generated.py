import pytest
import torch

from lowrung.config.schema import ModelConf
from lowrung.finetune.gate import branches, generated
from lowrung.finetune.gate.case import Case, Evidence
from lowrung.finetune.models import generate, pretrained
from lowrung.finetune.models.ends import Ends

PROMPTS = [[*b"one two"], [*b"a"], [*b"to be or"]]
NEW = 5


@pytest.fixture(scope="module")
def tiny():
    folder = pretrained.locate("embedded:tiny")
    return pretrained.load_model(folder, torch.float32, torch.device("cpu")), pretrained.load_tokenizer(folder)


NONE = Ends()


def case(tmp_path, ends=NONE, prompts=PROMPTS):
    rows = [{"input_ids": [*prompt, 65], "labels": [-100] * len(prompt) + [65]} for prompt in prompts]
    evidence = Evidence(rows, torch.zeros(0), torch.float32, ends)
    return Case(ModelConf("embedded:tiny"), tmp_path, evidence, NEW, "float32", {}, tmp_path)


def said(tiny, of):
    model, tokenizer = tiny
    return generated.greedy(of, model, tokenizer, range(len(of.rows)))


def said_as(tiny, of, other):
    model, tokenizer = tiny
    return generated.greedy_as(of, model, tokenizer, other, branches.apart(model, of.rows, other).after)


def changed(tokens, number, at, to):
    return [[*row[:at], to, *row[at + 1 :]] if n == number else [*row] for n, row in enumerate(tokens)]


@pytest.mark.parametrize("other", ["the same", "another", "shorter", "nothing", "first", "last"])
def test_it_is_what_the_model_generates_whatever_the_other_generated(tiny, tmp_path, other):
    right = said(tiny, case(tmp_path))
    of_other = {
        "the same": right,
        "another": [[1] * NEW, *right[1:]],
        "shorter": [right[0][:2], *right[1:]],
        "nothing": [[] for _ in PROMPTS],
        "first": changed(right, 1, 0, 3),
        "last": changed(right, 2, NEW - 1, 3),
    }[other]
    assert said_as(tiny, case(tmp_path), of_other) == right


def test_an_end_counts_where_the_other_ended(tiny, tmp_path):
    ends = Ends((said(tiny, case(tmp_path))[0][2],))
    right = said(tiny, case(tmp_path, ends))
    assert len(right[0]) < NEW
    longer = [[*right[0], 3], *right[1:]]
    assert said_as(tiny, case(tmp_path, ends), right) == right
    assert said_as(tiny, case(tmp_path, ends), longer) == right


def test_nothing_is_generated_again_where_all_is_the_same(tiny, tmp_path, monkeypatch):
    right = said(tiny, case(tmp_path))
    asked = []

    def greedy(model, tokenizer, prompts, **_):
        asked.append(len(prompts))
        return prompts

    monkeypatch.setattr(generate, "greedy", greedy)
    said_as(tiny, case(tmp_path), right)
    said_as(tiny, case(tmp_path), changed(right, 1, 0, 3))
    assert asked == [0, 1]


def test_a_prompt_that_fills_the_context_is_continued_by_nothing(tiny, tmp_path):
    limit = tiny[0].config.max_position_embeddings
    full = case(tmp_path, prompts=[[65] * limit, [65] * (limit - 2), *PROMPTS])
    right = said(tiny, full)
    assert [len(tokens) for tokens in right] == [0, 2, NEW, NEW, NEW]
    assert said_as(tiny, full, right) == right


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ([[1, 2, 3]], [[1, 2, 3]], 1.0),
        ([[1, 2, 3, 4]], [[1, 9, 3, 4]], 0.25),
        ([[1, 2]], [[1, 2, 3, 4]], 0.5),
        ([[], [1]], [[], [1]], 1.0),
        ([[]], [[]], 1.0),
    ],
)
def test_agreement_ends_at_the_first_difference(one, other, share):
    assert generated.agreement(one, other) == share


def test_samples_are_text_for_people(tiny, tmp_path):
    of = case(tmp_path, prompts=[*PROMPTS, [*b"five"], [*b"six"]])
    tokens = said(tiny, of)
    samples = generated.samples(of, tiny[1], tokens)
    assert len(samples) == generated.SAMPLES
    texts = [tiny[1].decode(part) for part in (PROMPTS[0], [65], tokens[0])]
    assert list(samples[0].values()) == texts


def test_the_datas_answer_ends_before_the_token_that_ends_it(tiny, tmp_path):
    of = case(tmp_path, Ends(tokens=(65,)))
    assert [sample["expected"] for sample in generated.samples(of, tiny[1], said(tiny, of))] == ["", "", ""]
