"""The command line: ``lowrung COMMAND``, or ``python -m lowrung COMMAND``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lowrung import cli
from lowrung.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16")  # lowrung.config.schema's, whose import would slow --help down

ADAPTER = "an adapter's folder, a run (runs/<signature>, its signature, or MLflow's id) or a trial (<study>/<n>)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code (see `lowrung.cli`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["train"]:  # Hydra's options and overrides, which argparse would not know
        sys.argv[1:] = arguments[1:]
        cli.run(_train)
    else:
        chosen = _parser().parse_args(arguments)
        cli.run(lambda: chosen.command(chosen))


def _train() -> None:
    from lowrung.commands import train

    train.main()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lowrung", description="What to do once a sweep has run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ui = commands.add_parser("ui", help="open MLflow on the latest sweep")
    ui.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    ui.add_argument("--uri", help="where the runs are (default: sqlite:///mlflow.db, in this folder)")
    ui.set_defaults(command=_ui)
    about = (
        "Deletes what a study can do without: the checkpoints, working files and merged models of its runs, which can"
        " be made again (a run that was interrupted then starts over). Results and adapters stay."
        " MLflow is never touched: what was recorded there stays, with --all too."
    )
    clean = commands.add_parser("clean", help="delete what a study can do without", description=about)
    clean.add_argument("study", metavar="STUDY", help="a study in ./multirun, or a study's folder")
    clean.add_argument(
        "--all", action="store_true", help="the study and its runs too, but for runs that other studies point to"
    )
    clean.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    clean.set_defaults(command=_clean)
    _add_inspect(commands)
    _add_generate(commands)
    _add_merge(commands)
    _add_compare(commands)
    _add_combine(commands)
    _add_promote(commands)
    return parser


def _add_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Says what an adapter is: its base, ranks, parameters, the norms of its updates, and what is wrong with it."
        " The base's weights are not loaded. Exit code 2 where there are problems."
    )
    inspect = commands.add_parser("inspect", help="say what an adapter is and what is wrong with it", description=about)
    inspect.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    _add_base(inspect)
    inspect.set_defaults(command=_inspect)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Asks adapters, merged models and bases the same, greedily. Prompts are written down as in training. Adapters"
        " on the same base are switched: it is loaded once."
    )
    generate = commands.add_parser("generate", help="ask adapters and models the same, side by side", description=about)
    generate.add_argument("names", metavar="NAME", nargs="*", help=f"{ADAPTER}, or a whole model's folder")
    generate.add_argument("--prompt", action="append", required=True, help="what is asked; may be given several times")
    generate.add_argument("--with-base", action="store_true", help="ask the adapters' base too")
    _add_new_tokens(generate)
    _add_base(generate)
    generate.set_defaults(command=_generate)


def _add_merge(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Adds an adapter to its base's weights and saves an ordinary model with its tokenizer, generation config and a"
        " model card. The update is added in float32 and rounded once. What was saved is reloaded and compared with the"
        " adapter; where they differ, nothing is kept and the exit code is 1."
    )
    merge = commands.add_parser("merge", help="make an adapter an ordinary, verified model", description=about)
    merge.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    merge.add_argument("--to", metavar="FOLDER", required=True, help="where to: empty, or not there yet")
    merge.add_argument(
        "--dtype", choices=DTYPES, help="the precision that is saved (default: the one that its run was verified in)"
    )
    _add_base(merge)
    merge.set_defaults(command=_merge)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Says in which settings runs differ, how each ended, and all their metrics, a column a run; then what each"
        " answers to the same prompts, greedily. Adapters on the same base share it."
    )
    compare = commands.add_parser("compare", help="hold runs against each other", description=about)
    compare.add_argument("runs", metavar="RUN", nargs="+", help=f"two or more, each {ADAPTER}")
    compare.add_argument(
        "--prompt",
        action="append",
        default=[],
        help="what is asked; may be given several times (default: two held-out prompts of the first run's data)",
    )
    _add_new_tokens(compare, "; 0 asks nothing")
    _add_trust(compare)
    compare.set_defaults(command=_compare)


def _add_combine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Makes one adapter of several on the same base, and scores it beside its parts on the held-out examples of"
        " their runs. cat and svd add the updates (svd at --rank); the others work on the factors, are rough, and need"
        " equal ranks."
    )
    combine = commands.add_parser("combine", help="make one adapter of several", description=about)
    combine.add_argument("adapters", metavar="ADAPTER", nargs="+", help=f"two or more, each {ADAPTER}")
    combine.add_argument("--to", metavar="FOLDER", required=True, help="where to: empty, or not there yet")
    combine.add_argument(
        "--method",
        default="svd",
        help="cat, svd, linear, ties, dare_linear, dare_ties or magnitude_prune, the last"
        " five also with _svd at the end, which works on the updates (default: %(default)s)",
    )
    combine.add_argument("--weights", type=float, nargs="+", help="one an adapter (default: equal, with a sum of 1)")
    combine.add_argument("--rank", type=int, help="of the result, with svd (default: the highest of the adapters')")
    combine.add_argument("--density", type=float, help="share of numbers to keep, with ties, dare and magnitude_prune")
    combine.add_argument("--seed", type=int, default=0, help="of what dare drops (default: %(default)s)")
    _add_base(combine)
    combine.set_defaults(command=_combine)


def _add_promote(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "Registers the best run that passed the gate as a model in MLflow, and points an alias at it once it was"
        " loaded from there, in a fresh process, and answers as the adapter does. A run is registered once: promoted"
        " again, the alias moves back to it. Where the answers differ, nothing is promoted and the exit code is 1."
    )
    promote = commands.add_parser("promote", help="register the best run in MLflow as the champion", description=about)
    promote.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="a study, whose best run is meant, or a run or trial (default: the study that was started last)",
    )
    promote.add_argument("--merged", action="store_true", help="register the merged model, verified as by merge")
    promote.add_argument("--name", dest="registered", help="the registered model (default: base and data: BASE-DATA)")
    promote.add_argument("--alias", default="champion", help="what points at it (default: %(default)s)")
    promote.set_defaults(command=_promote)


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="PATH", help="where the base is: a folder, a hub id or embedded:NAME (default: as trained)"
    )
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with the base: read it first"
    )


def _add_new_tokens(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--new-tokens", type=int, default=64, help=f"the most tokens of an answer (default: %(default)s{more})"
    )


def _ui(chosen: argparse.Namespace) -> None:
    from lowrung.track import base, server

    server.serve(base.store_uri(chosen.uri, Path.cwd()), chosen.port)


def _clean(chosen: argparse.Namespace) -> None:
    from lowrung.commands import clean

    print(clean.clean(chosen.study, everything=chosen.all, dry_run=chosen.dry_run))


def _inspect(chosen: argparse.Namespace) -> None:
    from lowrung.commands import inspect as inspection

    found = inspection.inspect(chosen.adapter, chosen.base, trust_remote_code=chosen.trust_remote_code)
    print(found.text)
    if found.problems:
        raise UsageError(found.problems)


def _generate(chosen: argparse.Namespace) -> None:
    from lowrung.commands import generate as generation

    print(
        generation.generate(
            chosen.names,
            chosen.prompt,
            base=chosen.base,
            with_base=chosen.with_base,
            new_tokens=chosen.new_tokens,
            trust_remote_code=chosen.trust_remote_code,
        )
    )


def _merge(chosen: argparse.Namespace) -> None:
    from lowrung.commands import merge as merging

    trusted = chosen.trust_remote_code
    print(merging.merge(chosen.adapter, chosen.to, base=chosen.base, dtype=chosen.dtype, trust_remote_code=trusted))


def _compare(chosen: argparse.Namespace) -> None:
    from lowrung.commands import compare as comparison

    options = {"new_tokens": chosen.new_tokens, "trust_remote_code": chosen.trust_remote_code}
    for number, part in enumerate(comparison.compare(chosen.runs, chosen.prompt, **options)):
        print("\n" * bool(number) + part, flush=True)


def _combine(chosen: argparse.Namespace) -> None:
    from lowrung.commands import combine as combination

    options = {"method": chosen.method, "rank": chosen.rank, "density": chosen.density, "seed": chosen.seed}
    options["trust_remote_code"] = chosen.trust_remote_code
    print(combination.combine(chosen.adapters, chosen.to, chosen.weights, base=chosen.base, **options))


def _promote(chosen: argparse.Namespace) -> None:
    from lowrung.commands import promote as promotion

    promoted = promotion.promote(chosen.name, registered=chosen.registered, alias=chosen.alias, merged=chosen.merged)
    print(promoted.text)


if __name__ == "__main__":
    main()
