import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.models import pretrained, soundness
from lowrung.finetune.models.hub import fetch
from tests.hub import serve

CPU = torch.device("cpu")
SECRET = "hf_aSecretThatNobodyMaySee"


@pytest.fixture(scope="module")
def tiny():
    return pretrained.locate("embedded:tiny")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, and a working folder without models."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, monkeypatch):
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def refusal(base):
    """The one problem of a base that cannot be found."""
    with pytest.raises(UsageError) as error:
        _ = pretrained.folder_of(base)
    assert soundness.problems(base) == error.value.problems
    (problem,) = error.value.problems
    assert SECRET not in problem
    return problem


@pytest.mark.slow
def test_a_hub_model_is_found_by_its_id_and_loads(hub, cache, tiny):
    commit = hub.add("someone/tiny", tiny)
    base = ModelConf("someone/tiny")
    assert pretrained.folder_of(base) == cache / "models--someone--tiny" / "snapshots" / commit
    assert pretrained.origin_of(base) == ("someone/tiny", commit)
    assert soundness.problems(base) == []
    ids = torch.arange(20)[None]
    ours = pretrained.load_model(tiny, torch.float32, CPU)
    with torch.no_grad():
        assert torch.equal(pretrained.load_base(base, CPU)(input_ids=ids).logits, ours(input_ids=ids).logits)
    assert (
        pretrained.load_tokenizer(pretrained.folder_of(base))("abc")["input_ids"]
        == pretrained.load_tokenizer(tiny)("abc")["input_ids"]
    )


def test_a_name_without_an_owner_is_an_id_too(hub, tiny):
    commit = hub.add("gpt2", tiny)
    assert pretrained.origin_of(ModelConf("gpt2")) == ("gpt2", commit)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, tiny, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    main, old = hub.add("someone/tiny", tiny), hub.add("someone/tiny", other, revision="v1")
    for revision, commit in ((None, main), ("main", main), ("v1", old), (old, old)):
        assert pretrained.origin_of(ModelConf("someone/tiny", revision)) == ("someone/tiny", commit)


def test_the_fingerprint_is_the_commit_s(hub, tiny, tmp_path):
    same = tmp_path / "same"
    shutil.copytree(tiny, same)
    hub.add("someone/tiny", tiny)
    hub.add("someone/tiny", same, revision="again")
    main, again = (
        pretrained.folder_of(ModelConf("someone/tiny")),
        pretrained.folder_of(ModelConf("someone/tiny", "again")),
    )
    before = pretrained.fingerprint(main)
    assert pretrained.fingerprint(again) != before
    (main / "model.safetensors").unlink()  # the content is not read
    assert pretrained.fingerprint(main) == before
    copied = tmp_path / "models--someone--tiny" / "snapshots" / again.name
    shutil.copytree(again, copied)  # a folder of the user's, whatever it is called
    assert pretrained.fingerprint(copied) == pretrained.fingerprint(tiny)


def test_only_safe_files_are_fetched(hub, tiny, tmp_path):
    full = tmp_path / "full"
    shutil.copytree(tiny, full)
    for name in ("pytorch_model.bin", "consolidated.safetensors", "model.pt", "modeling_tiny.py", "onnx/model.json"):
        (full / name).parent.mkdir(exist_ok=True)
        (full / name).write_text("{}")
    hub.add("someone/full", full)
    expected = sorted(path.name for path in tiny.iterdir())
    assert sorted(path.name for path in pretrained.folder_of(ModelConf("someone/full")).iterdir()) == expected
    assert hub.files("someone/full") == expected
    trusted = pretrained.folder_of(ModelConf("someone/full", trust_remote_code=True))
    assert sorted(path.name for path in trusted.iterdir()) == sorted([*expected, "modeling_tiny.py"])


def test_a_folder_goes_before_the_hub(hub, tiny, tmp_path):
    hub.add("someone/tiny", tiny)
    shutil.copytree(tiny, tmp_path / "someone" / "tiny")
    assert pretrained.origin_of(ModelConf("someone/tiny")) == (str(tmp_path / "someone" / "tiny"), None)
    assert hub.asked == []


def test_the_cache_serves_without_the_hub(hub, cache, tiny, monkeypatch):
    commit = hub.add("someone/tiny", tiny)
    folder = pretrained.folder_of(ModelConf("someone/tiny"))
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch.cache_clear()
    assert (
        pretrained.folder_of(ModelConf("someone/tiny"))
        == pretrained.folder_of(ModelConf("someone/tiny", commit))
        == folder
    )
    assert hub.asked == []


def test_a_branch_stays_where_it_was_while_a_process_works(hub, tiny, tmp_path):
    first = hub.add("someone/tiny", tiny)
    assert pretrained.origin_of(ModelConf("someone/tiny"))[1] == first
    shutil.copytree(tiny, tmp_path / "newer")
    hub.add("someone/tiny", tmp_path / "newer")
    assert pretrained.origin_of(ModelConf("someone/tiny"))[1] == first


def test_an_absent_repository_may_have_been_meant_as_a_folder(hub, tmp_path):
    problem = refusal(ModelConf("someone/nothing"))
    assert f"{tmp_path / 'someone' / 'nothing'} does not exist" in problem
    assert "no https://huggingface.co/someone/nothing that you can read" in problem
    assert "hf auth login" in problem
    assert "embedded:tiny" in problem


@pytest.mark.slow
def test_a_gated_model_names_its_licence_and_the_way_in(hub, tiny, monkeypatch):
    hub.add("someone/gated", tiny, token="the right one")
    assert refusal(ModelConf("someone/gated")) == (
        "model.path=someone/gated is gated, and you have no access yet. Accept its licence at"
        " https://huggingface.co/someone/gated, then log in with `hf auth login`, or set HF_TOKEN."
    )
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "is gated" in refusal(ModelConf("someone/gated"))
    monkeypatch.setenv("HF_TOKEN", "the right one")
    assert soundness.problems(ModelConf("someone/gated")) == []


def test_an_absent_revision(hub, tiny):
    hub.add("someone/tiny", tiny)
    problem = refusal(ModelConf("someone/tiny", "v9"))
    assert "model.revision must be a branch, tag or commit of someone/tiny, but is 'v9'" in problem
    assert "but is '" + "0" * 40 in refusal(ModelConf("someone/tiny", "0" * 40))


@pytest.mark.parametrize("down", ["no server", "an error of the server's"])
def test_a_hub_out_of_reach(hub, cache, tmp_path, monkeypatch, down):
    if down == "no server":
        with serve() as gone:
            pass
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    hub.is_down = True
    monkeypatch.setenv("HF_TOKEN", SECRET)
    problem = refusal(ModelConf("someone/tiny"))
    assert f"is not completely in the hub's cache {cache}, and the hub cannot be reached" in problem
    assert ("HTTP status 503" if down != "no server" else "Connection refused") in problem
    assert f"nor is there a folder {tmp_path / 'someone' / 'tiny'}" in problem
    assert "Check the network, or take a local folder or one of embedded:smollm2_135m" in problem


def test_offline_and_not_in_the_cache(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    problem = refusal(ModelConf("someone/tiny"))
    assert "HF_HUB_OFFLINE=1 keeps it from being fetched" in problem
    assert "Unset HF_HUB_OFFLINE once" in problem
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "what"), [("*.safetensors", "weights as safetensors"), ("config.json", "config.json")]
)
def test_a_repository_without_what_is_needed(hub, tiny, tmp_path, name, what):
    lacking = tmp_path / "lacking"
    shutil.copytree(tiny, lacking, ignore=shutil.ignore_patterns(name))
    (lacking / "pytorch_model.bin").touch()
    hub.add("someone/lacking", lacking)
    assert f"must be a model with {what}, but https://huggingface.co/someone/lacking has none in main" in refusal(
        ModelConf("someone/lacking")
    )
    assert "pytorch_model.bin" not in hub.files("someone/lacking")


@pytest.mark.slow
def test_the_client_as_the_environment_sets_it_shows_no_bars_and_no_token(tiny, tmp_path):
    code = (
        "import sys; from lowrung.config.schema import ModelConf; from lowrung.finetune.models.pretrained import"
        " origin_of; print(origin_of(ModelConf(sys.argv[1])))"
    )
    with serve() as hub:
        commit = hub.add("someone/tiny", tiny, token=SECRET)
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": SECRET}
        source = str(Path(pretrained.__file__).parents[3])
        done = subprocess.run(
            [sys.executable, "-c", code, "someone/tiny"],
            env={**environment, "PYTHONPATH": source},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.splitlines()[-1] == str(("someone/tiny", commit))
    assert "fetching someone/tiny into" in done.stdout
    assert "%|" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
