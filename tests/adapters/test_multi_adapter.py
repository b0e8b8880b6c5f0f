"""Adapters beside each other on one base, whose weights must be the same to the bit whatever was done to it."""

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from peft import PeftModel

from lowrung.adapters import combine, files, updates
from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.models import added_tokens, pretrained
from tests import architectures, training

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"use_dora": True, "target_modules": ["q_proj", "v_proj"]},
    "head": {"modules_to_save": ["lm_head"]},
    "rank2.rs": {"r": 2, "use_rslora": True, "target_modules": "mlp"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The adapters of four variants, and some rows."""
    folder = tmp_path_factory.mktemp("trained")
    found = {}
    for seed, (name, lora) in enumerate(VARIANTS.items()):
        trained, _ = training.fine_tune(folder / name, lora=lora, seed=seed)
        found[name] = folder / name / "adapter"
        rows = trained.held_out[:4]
    return found, rows


@pytest.fixture(scope="module")
def adapters_once(folders):
    base = MultiAdapter(ModelConf("embedded:tiny"), CPU)
    for name, folder in folders[0].items():
        base.load(name, folder)
    return base


@pytest.fixture
def adapters(adapters_once):
    """All four on one base; to copy it takes a tenth of the time."""
    return copy.deepcopy(adapters_once)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_is_original(model):
    original = weights(pretrained.load_base(ModelConf("embedded:tiny"), CPU))
    found = weights(model)
    assert found.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(found[name], weight), name


def logits(model, rows):
    return completion_logits(model, rows)[0]


def is_same(found, expected):
    """Whether logits are those of the same weights at other addresses, by which some processors' products round.

    With a processor's AVX2 alone up to 1e-6 was measured; each adapter here moves logits by over 0.1.
    """
    return torch.allclose(found, expected, rtol=0, atol=1e-5)


def alone(folder, rows):
    """What PEFT makes of one adapter on a fresh base."""
    return logits(
        PeftModel.from_pretrained(pretrained.load_base(ModelConf("embedded:tiny"), CPU), str(folder)).eval(), rows
    )


@pytest.mark.slow
def test_each_is_what_it_is_alone_in_any_order_and_the_base_stays(folders, adapters):
    paths, rows = folders
    expected = {name: alone(folder, rows) for name, folder in paths.items()}
    base = logits(pretrained.load_base(ModelConf("embedded:tiny"), CPU), rows)
    for name in ("plain", "head", None, "dora", "plain", "rank2.rs", "head", None):
        adapters.switch(name)
        assert is_same(logits(adapters.model, rows), base if name is None else expected[name]), name
    assert_is_original(adapters.unload())


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_it_is_the_same_up_to_rounding_and_unmerged_to_the_bit(folders, adapters, name):
    _, rows = folders
    adapters.switch(name)
    before = logits(adapters.model, rows)
    adapters.merge()
    merged = logits(adapters.model, rows)
    assert torch.allclose(merged, before, atol=1e-4)
    adapters.unmerge()
    assert torch.equal(logits(adapters.model, rows), before)
    adapters.switch(None)
    assert_is_original(adapters.unload())


def test_unload_undoes_a_merge_and_the_base_can_be_used_again(folders, adapters):
    paths, rows = folders
    adapters.switch("plain")
    adapters.merge()
    assert_is_original(adapters.unload())
    assert adapters.names == ()
    adapters.load("again", paths["plain"])
    adapters.switch("again")
    assert is_same(logits(adapters.model, rows), alone(paths["plain"], rows))


def test_deleted_ones_leave_the_others_as_they_were(folders, adapters):
    paths, rows = folders
    adapters.switch("dora")
    adapters.delete("plain")
    assert adapters.active == "dora"
    assert is_same(logits(adapters.model, rows), alone(paths["dora"], rows))
    adapters.delete("dora")
    assert adapters.active is None
    assert adapters.names == ("head", "rank2.rs")
    assert is_same(logits(adapters.model, rows), logits(pretrained.load_base(ModelConf("embedded:tiny"), CPU), rows))


@pytest.mark.slow
def test_trained_biases_come_and_go_with_their_adapters(tmp_path):
    base = ModelConf("embedded:tiny_gpt2")
    paths = {}
    for seed, bias in enumerate(("all", "lora_only")):
        trained, _ = training.fine_tune(tmp_path / bias, base=base, lora={"bias": bias}, seed=seed)
        paths[bias] = tmp_path / bias / "adapter"
    rows = trained.held_out[:4]
    original = pretrained.load_base(base, CPU)
    adapters = MultiAdapter(base, CPU)
    for bias, folder in paths.items():
        adapters.load(bias, folder)
    with pytest.raises(UsageError, match=r"bias must be the same .* all has all, lora_only has lora_only"):
        adapters.combine("both", {"all": 1, "lora_only": 1}, method="cat")
    adapters.save("all", tmp_path / "copy")
    expected_logits = logits(
        PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(tmp_path / "copy")).eval(), rows
    )
    for active in ("all", None, "lora_only", "all"):
        adapters.switch(active)
        fresh = pretrained.load_base(base, CPU)
        expected = PeftModel.from_pretrained(fresh, str(paths[active])).eval() if active else fresh
        assert is_same(logits(adapters.model, rows), logits(expected, rows)), active
    assert is_same(logits(adapters.model, rows), expected_logits)
    assert files.read(tmp_path / "copy").config.bias == "all"
    adapters.load("again", paths["all"])
    adapters.combine("both", {"all": 0.3, "again": 0.7}, method="cat")
    adapters.save("both", tmp_path / "both")
    adapters.switch("both")
    assert torch.allclose(logits(adapters.model, rows), expected_logits, atol=1e-4)
    reloaded = PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(tmp_path / "both")).eval()
    assert torch.equal(logits(adapters.model, rows), logits(reloaded, rows))
    found, kept = weights(adapters.unload()), weights(original)
    assert all(torch.equal(found[name], kept[name]) for name in kept)


TOKENS = ["Write", "<think>", "seventy", "twenty", "thirty", "forty"]
"""One more than the bases of `tests.architectures` have rows to spare."""

KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "rows": ({}, TOKENS),
    "whole": ({"modules_to_save": ["embed_tokens", "lm_head"]}, TOKENS),
    "rows and others": ({"trainable_token_indices": [1, 2]}, TOKENS),
    "plain": ({}, []),
}
"""An adapter's settings, and the tokens that it adds."""


@pytest.fixture(scope="module", params=["llama", pytest.param("tied llama", marks=pytest.mark.slow)])
def with_tokens(request, tmp_path_factory):
    """A base, the adapters of `KINDS` on it, and rows that hold each token."""
    folder, plain = tmp_path_factory.mktemp("tokens"), architectures.base(request.param)
    for kind, (lora, tokens) in KINDS.items():
        base = dataclasses.replace(plain, added_tokens=tokens)
        trained, _ = training.fine_tune(folder / kind, base=base, lora=lora, max_steps=3)
    base = dataclasses.replace(plain, added_tokens=TOKENS)
    rows = [*trained.held_out[:4], *added_tokens.examples(pretrained.added_rows(base))]
    return base, {kind: folder / kind / "adapter" for kind in KINDS}, rows


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, where both are trained whole
@pytest.mark.parametrize("names", [("rows", "rows and others"), ("plain", "whole", "rows")], ids=", ".join)
@pytest.mark.slow
def test_added_tokens_are_rows_of_the_base_that_adapters_fill(with_tokens, tmp_path, names):
    base, paths, rows = with_tokens

    def alone(folder):
        return PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(folder)).eval()

    original = pretrained.load_base(base, CPU)
    expected = {None: logits(original, rows)} | {name: logits(alone(paths[name]), rows) for name in names}
    adapters = MultiAdapter(base, CPU)
    for name in names:
        adapters.load(name, paths[name])
    for active in (*names, None, *reversed(names), None):
        adapters.switch(active)
        assert torch.equal(logits(adapters.model, rows), expected[active]), active
        if active is not None:
            adapters.merge()
            assert torch.allclose(logits(adapters.model, rows), expected[active], atol=1e-4), active
            adapters.unmerge()
            assert torch.equal(logits(adapters.model, rows), expected[active]), active
    for name in names:
        adapters.save(name, tmp_path / name)
        assert torch.equal(logits(alone(tmp_path / name), rows), expected[name]), name
    found, kept = weights(adapters.unload()), weights(original)
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], weight) for name, weight in kept.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_adapters_with_added_tokens_are_refused_where_they_do_not_fit(with_tokens):
    base, paths, _ = with_tokens
    plain = MultiAdapter(dataclasses.replace(base, added_tokens=[]), CPU)
    for name, message in (("rows", "trains the embeddings of tokens 264, but"), ("whole", "it has 265 rows of")):
        with pytest.raises(UsageError, match=message):
            plain.load(name, paths[name])
    assert plain.names == ()


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_is_what_was_loaded(folders, adapters, tmp_path, name):
    paths, rows = folders
    adapters.save(name, tmp_path / "copy")
    assert torch.equal(alone(tmp_path / "copy", rows), alone(paths[name], rows))


HEAD = "base_model.model.lm_head.weight"


def embedding_rows(folder):
    """Which rows of the embedding a saved adapter has trained, and what they are."""
    adapter = files.read(folder)
    numbers: Any = adapter.config.trainable_token_indices
    return numbers["model.embed_tokens"], adapter.tensors[f"base_model.model.model.embed_tokens{files.ROWS}"]


def update(folder):
    """What a saved adapter adds to each layer's weights."""
    adapter = files.read(folder)
    tensors = adapter.tensors
    return {
        layer.name: layer.scaling
        * tensors[f"base_model.model.{layer.name}.lora_B.weight"]
        @ tensors[f"base_model.model.{layer.name}.lora_A.weight"]
        for layer in updates.layers(adapter)
    }


@pytest.mark.parametrize(
    "methods", [["cat"], pytest.param(combine.METHODS, marks=pytest.mark.slow)], ids=["cat", "all"]
)
def test_a_base_in_16_bits_rounds_no_sum(folders, tmp_path, methods):
    """As a GPU loads it. The parts are held in float32, and so is what is made of them."""
    for precision in ("float32", "bfloat16"):
        adapters = MultiAdapter(ModelConf("embedded:tiny", dtype=precision), CPU)
        for name in ("plain", "other"):
            adapters.load(name, folders[0]["plain"])
        for method in methods:
            density = 0.5 if method.startswith(combine.PRUNING) else None
            adapters.combine(method, {"plain": 0.7, "other": 0.3}, method=method, density=density)
            adapters.save(method, tmp_path / precision / method)
    for method in methods:
        exact, found = (files.read(tmp_path / precision / method).tensors for precision in ("float32", "bfloat16"))
        assert exact.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in exact.items()), method


@pytest.mark.slow
class TestCombine:
    @pytest.mark.parametrize(("method", "rank"), [("cat", None), ("svd", 6)])
    @pytest.mark.parametrize("weights", [{"plain": 0.5, "rank2.rs": 2.0}, {"rank2.rs": 1.0, "plain": -0.3}])
    @pytest.mark.slow
    def test_the_exact_methods_add_the_updates(self, folders, adapters, tmp_path, method, rank, weights):
        """Also of unequal ranks, of other layers, and with rsLoRA in the first part."""
        adapters.combine("both", weights, method=method, rank=rank)
        adapters.save("both", tmp_path / "both")
        parts = {name: update(folders[0][name]) for name in weights}
        found = update(tmp_path / "both")
        assert found.keys() == parts["plain"].keys()
        for layer, delta in found.items():
            expected = sum(weight * parts[name][layer] for name, weight in weights.items() if layer in parts[name])
            assert torch.allclose(delta, expected, atol=1e-5), layer

    @pytest.mark.parametrize(
        "method",
        [name if name == "dare_ties_svd" else pytest.param(name, marks=pytest.mark.slow) for name in combine.METHODS],
    )
    def test_every_method_s_result_loads_elsewhere_and_leaves_base_and_parts(self, folders, adapters, tmp_path, method):
        paths, rows = folders
        adapters.load("other", paths["plain"])
        adapters.switch("plain")
        density = 0.5 if method.startswith(combine.PRUNING) else None
        adapters.combine("both", {"plain": 0.7, "other": 0.4}, method=method, density=density)
        assert adapters.active == "plain"
        assert torch.equal(logits(adapters.model, rows), alone(paths["plain"], rows))
        adapters.switch("both")
        adapters.save("both", tmp_path / "both")
        expected_logits = logits(adapters.model, rows)
        assert torch.equal(expected_logits, alone(tmp_path / "both", rows))
        assert not torch.equal(expected_logits, alone(paths["plain"], rows))
        assert_is_original(adapters.unload())

    def test_what_dare_drops_is_drawn_by_the_seed(self, folders, adapters):
        adapters.load("other", folders[0]["plain"])
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            adapters.combine(name, {"plain": 1.0, "other": 1.0}, method="dare_linear", density=0.5, seed=seed)
        outputs = {}
        for name in ("a", "b", "c"):
            adapters.switch(name)
            outputs[name] = logits(adapters.model, folders[1])
        assert torch.equal(outputs["a"], outputs["b"])
        assert not torch.equal(outputs["a"], outputs["c"])

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_head_changes_by_its_adapter_s_weight(self, folders, tmp_path, dtype):
        """In float32 also where the base's own is held otherwise."""
        paths, _ = folders
        adapters = MultiAdapter(ModelConf("embedded:tiny", dtype=dtype), CPU)
        own = adapters.model.lm_head.weight.detach().float()
        for name in ("plain", "head"):
            adapters.load(name, paths[name])
        adapters.combine("both", {"plain": 0.7, "head": 0.4}, method="cat")
        adapters.save("both", tmp_path / "both")
        trained = files.read(paths["head"]).tensors[HEAD]
        assert torch.allclose(files.read(tmp_path / "both").tensors[HEAD], own + 0.4 * (trained - own), atol=1e-6)

    def test_a_combined_head_is_what_is_saved(self, folders, adapters, tmp_path):
        _, rows = folders
        adapters.combine("both", {"plain": 0.7, "head": 0.4}, method="cat")
        adapters.save("both", tmp_path / "both")
        adapters.switch("both")
        assert torch.equal(logits(adapters.model, rows), alone(tmp_path / "both", rows))
        assert_is_original(adapters.unload())

    @pytest.mark.parametrize("method", ["cat", pytest.param("ties_svd", marks=pytest.mark.slow)])
    def test_rows_of_tokens_change_by_their_adapters_weights(self, with_tokens, tmp_path, method):
        """Also those that only one adapter trains, 1 and 2."""
        base, paths, rows = with_tokens
        shares = {"rows": 0.5, "rows and others": 2.0}
        adapters = MultiAdapter(base, CPU)
        for name in (*shares, "plain"):
            adapters.load(name, paths[name])
        adapters.combine("both", {**shares, "plain": 1.0}, method=method, density=0.5 if method == "ties_svd" else None)
        adapters.save("both", tmp_path / "both")
        adapters.switch("both")
        fresh: Any = pretrained.load_base(base, CPU)
        own = fresh.model.embed_tokens.weight.detach()
        expected = own.clone()
        for name, share in shares.items():
            numbers, trained = embedding_rows(paths[name])
            expected[numbers] += share * (trained - own[numbers])
        numbers, found = embedding_rows(tmp_path / "both")
        assert {1, 2, *pretrained.added_rows(base)} == set(numbers)
        assert torch.allclose(found, expected[numbers], atol=1e-6)
        reloaded = PeftModel.from_pretrained(fresh, str(tmp_path / "both")).eval()
        assert torch.equal(logits(adapters.model, rows), logits(reloaded, rows))

    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
    @pytest.mark.slow
    def test_rows_and_whole_matrices_make_whole_matrices(self, with_tokens, tmp_path):
        base, paths, rows = with_tokens
        adapters = MultiAdapter(base, CPU)
        outputs = {}
        for name in ("rows", "whole"):
            adapters.load(name, paths[name])
            adapters.load(f"{name} again", paths[name])
        adapters.combine("both", {"rows": 1.0, "rows again": -1.0, "whole": 0.5, "whole again": 0.5}, method="cat")
        adapters.save("both", tmp_path / "both")
        for name in ("whole", "both"):
            adapters.switch(name)
            outputs[name] = logits(adapters.model, rows)
        assert torch.allclose(outputs["both"], outputs["whole"], atol=1e-4)
        reloaded = PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(tmp_path / "both")).eval()
        assert torch.equal(outputs["both"], logits(reloaded, rows))
        original, found = weights(pretrained.load_base(base, CPU)), weights(adapters.unload())
        assert found.keys() == original.keys()
        assert all(torch.equal(found[name], weight) for name, weight in original.items())

    @pytest.mark.slow
    def test_a_tied_head_is_trained_whole_by_one_and_in_rows_by_another(self, tmp_path):
        """PEFT cannot hold what would come of it."""
        base = architectures.base("tied llama")
        adapters = MultiAdapter(base, CPU)
        chosen: dict[str, dict[str, Any]] = {
            "rows": {"trainable_token_indices": [1]},
            "head": {"modules_to_save": ["lm_head"]},
        }
        for name, lora in chosen.items():
            training.fine_tune(tmp_path / name, base=base, lora=lora, max_steps=1)
            adapters.load(name, tmp_path / name / "adapter")
        with pytest.raises(UsageError, match=r"rows trains rows of lm_head and .*embed_tokens, which are tied, but"):
            adapters.combine("both", {"rows": 1, "head": 1}, method="cat")

    @pytest.mark.slow
    def test_adapters_of_some_layers_each(self, tmp_path):
        """One by a regular expression, one by the numbers of its blocks; PEFT combines neither."""
        adapters = MultiAdapter(ModelConf("embedded:tiny"), CPU)
        chosen: dict[str, dict[str, Any]] = {
            "regex": {"target_modules": r".*\.0\..*(q|v)_proj"},
            "block": {"layers_to_transform": [1]},
        }
        for name, lora in chosen.items():
            training.fine_tune(tmp_path / name, lora=lora, max_steps=2)
            file = tmp_path / name / "adapter" / "adapter_config.json"
            config = {**json.loads(file.read_text()), **lora}
            file.write_text(json.dumps(config))
            adapters.load(name, tmp_path / name / "adapter")
        adapters.combine("both", {"regex": 1.0, "block": 0.5}, method="cat")
        adapters.save("both", tmp_path / "both")
        expected = update(tmp_path / "regex" / "adapter")
        expected |= {layer: 0.5 * delta for layer, delta in update(tmp_path / "block" / "adapter").items()}
        found = update(tmp_path / "both")
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[layer], delta, atol=1e-6) for layer, delta in expected.items())

    @pytest.mark.parametrize(
        ("weights", "options", "message"),
        [
            ({"plain": 1, "rank2.rs": 1}, {"method": "linear"}, "plain has 4, rank2.rs has 2. Take svd"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "ties", "density": 0.5}, "Take ties_svd"),
            ({"plain": 1, "dora": 1}, {"method": "svd"}, "dora: use_dora must be unset for an adapter to be combined"),
            ({"plain": 1}, {"method": "svd"}, "combine needs at least two adapters, but has 1"),
            ({"plain": 1, "rank2.rs": 0}, {"method": "svd"}, "weights must be finite and not 0, but some are 0"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "ties_svd"}, "density must be above 0"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "svd", "density": 0.5}, "density is for methods that prune"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "svd", "rank": 33}, "rank must be from 1 to 32"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "cat", "rank": 3}, "rank is for methods that end in svd"),
            ({"plain": 1, "rank2.rs": 1}, {"method": "mean"}, "method must be one of cat, svd"),
            ({"plain": 1, "nobody": 1}, {"method": "cat"}, "nobody is not"),
        ],
    )
    def test_refused(self, adapters, weights, options, message):
        with pytest.raises(UsageError, match=message):
            adapters.combine("both", weights, **options)
        assert adapters.names == tuple(VARIANTS)


class TestRefused:
    def test_a_name_that_is_taken_and_one_that_is_not_there(self, folders, adapters):
        with pytest.raises(UsageError, match="plain is loaded"):
            adapters.load("plain", folders[0]["plain"])
        with pytest.raises(UsageError, match="nobody is not"):
            adapters.switch("nobody")

    def test_anything_but_unmerge_while_one_is_merged(self, adapters):
        with pytest.raises(UsageError, match="none is"):
            adapters.unmerge()
        with pytest.raises(UsageError, match="Switch to one"):
            adapters.merge()
        adapters.switch("plain")
        adapters.merge()
        for act in (lambda: adapters.switch(None), lambda: adapters.delete("plain"), adapters.merge):
            with pytest.raises(UsageError, match="Unmerge it first"):
                act()

    def test_a_bad_adapter_leaves_all_as_it_was(self, adapters, tmp_path):
        with pytest.raises(UsageError, match="has none"):
            adapters.load("new", tmp_path)
        assert adapters.names == tuple(VARIANTS)
        assert_is_original(adapters.unload())
