"""`lowrung compare` on runs that were trained with other settings."""

from lowrung.__main__ import main
from lowrung.layout import RunFolder
from lowrung.outcome import Outcome


def sections(printed):
    """The rows of both tables, by their first cell."""
    return [
        {line.split("  ")[0].strip(): line.split("  ")[1:] for line in part.splitlines()}
        for part in printed.split("\n\n")
    ]


def test_only_settings_that_differ_and_all_metrics_are_shown(place, capsys):
    main(["compare", "mine/0", "cd34"])
    printed = capsys.readouterr().out
    settings, result = sections(printed)
    assert set(settings) == {"settings that differ", "lora.alpha", "lora.target_modules"}
    assert settings["lora.alpha"][-1].strip() == "4"
    assert "['q_proj', 'v_proj']" in printed
    runs = [RunFolder(place / "runs" / name) for name in ("ab12", "cd34")]
    first, second = (Outcome.read(run.outcome) for run in runs)
    assert first is not None
    assert second is not None
    assert set(result) == {"result", "status", *first.metrics, *second.metrics}
    losses = [float(cell) for cell in result["eval/loss"] if cell.strip()]
    assert losses == [float(f"{outcome.metrics['eval/loss']:.6g}") for outcome in (first, second)]


def test_a_run_without_an_outcome_is_unfinished(place, capsys):
    RunFolder(place / "runs" / "cd34").outcome.unlink()
    main(["compare", "ab12", "cd34"])
    _, result = sections(capsys.readouterr().out)
    assert [cell.strip() for cell in result["status"] if cell.strip()] == ["complete", "unfinished"]


def test_fewer_than_two_and_what_is_no_run_are_refused(place, refused):
    assert "at least two runs, but has 1" in refused("compare", "ab12", "ab12")
    message = refused("compare", "ab12", "xy", "zz")
    assert message.startswith("2 errors:")
