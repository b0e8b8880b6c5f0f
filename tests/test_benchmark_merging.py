"""The benchmark of merges, with one seed of the tiny model."""

import json

import pytest
from benchmarks import merging


@pytest.mark.slow
def test_each_way_is_measured_and_lowrung_is_no_worse_than_peft(tmp_path, capsys):
    out = tmp_path / "results.json"
    merging.main(
        [
            "--models",
            "tiny",
            "--quantizations",
            "nf4",
            "--seeds",
            "1",
            "--rows",
            "4",
            "--threads",
            "1",
            "--out",
            str(out),
        ]
    )
    merges = json.loads(out.read_text())["merges"]
    cost = {(line["base"], line["merged"], line["way"]): line["weights"]["mean_kl"] for line in merges}
    assert len(cost) == len(merges) == 18
    for base, merged, way in cost:
        if way == "lowrung" and (base, merged, "peft") in cost:
            assert cost[base, merged, "lowrung"] <= cost[base, merged, "peft"] + 1e-12
    assert cost["float32", "bfloat16", "lowrung"] < 0.8 * cost["float32", "bfloat16", "peft"]
    assert cost["nf4", "bfloat16", "lowrung"] < 0.01 * cost["nf4", "nf4", "peft"]
    assert "nf4" in capsys.readouterr().out
