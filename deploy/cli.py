"""The `mdrec` command. Exit code 0 ok, 1 the work failed, 2 bad usage or bad input; one line and a hint, the traceback
under --debug."""

from __future__ import annotations

import os
import sys
import traceback

# Before any numeric library starts its threads: a training thread that spins at a barrier beside a busy gateway made an
# epoch of 3 s take 180 s on two cores; one that sleeps there costs nothing measurable when it is alone.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import typer
from rich.console import Console

from contracts.errors import MdrecError
from deploy.commands import bundles, caps, collecting, data, experiments, interleaving, models, planning, replaying, serving

app = typer.Typer(
    name="mdrec",
    help="Real online serving for multi-domain ad recommendation.",
    epilog="Start here: mdrec run      Your own logs: mdrec data check DIR, then mdrec nightly --data DIR, then mdrec serve",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(bundles.app, name="bundle")
app.add_typer(caps.app, name="caps")
experiments.app.command(epilog="Example: mdrec ab plan ranker plan.yaml")(planning.plan)
experiments.app.command(epilog="Example: mdrec ab power plan.yaml --days 14")(planning.power)
experiments.app.command(epilog="Example: mdrec ab simulate --experiments 200")(planning.simulate)
experiments.app.command(epilog="Example: mdrec ab replay adi+dsfm --temperature 0.3")(replaying.replay)
experiments.app.command(epilog="Example: mdrec ab simulate-interleaving --experiments 500")(interleaving.simulate_interleaving)
app.add_typer(experiments.app, name="ab")
app.add_typer(serving.features_app, name="features")
for command, example in (
    (models.attribute, "mdrec attribute kuairand --plot sensitivity.png"),
    (models.evaluate, "mdrec evaluate kuairand --recipe adi+dsfm --recipe rates --seeds 5 --json result.json"),
    (models.nightly, "mdrec nightly --data kuairand --recipe adi+dsfm --recipe adi+shared_dnn"),
    (collecting.collect, "mdrec collect --every 60"),
    (serving.explain, "mdrec explain 3f1c"),
    (serving.run, "mdrec run --port 8080"),
):
    app.command(epilog=f"Example: {example}")(command)
app.command(epilog=serving.settings_help())(serving.serve)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run one command, translate every failure into a line, a hint and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("MDREC_DEBUG") == "1"
    given = [one for one in given if one != "--debug"]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = app(given, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except MdrecError as error:
        _explain(console, error, debug, error.message, error.hint)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        console.print("stopped")
        sys.exit(130)
    except Exception as error:  # the last line of defence: a person gets one line, --debug the whole story
        _explain(console, error, debug, f"{type(error).__name__}: {error}", "this is a defect in mdrec; --debug shows where")
        sys.exit(1)


def _explain(console: Console, error: Exception, debug: bool, message: str, hint: str) -> None:
    if debug:
        traceback.print_exception(error)
    console.print(f"[bold red]error[/] {_plain(message)}")
    if hint:
        console.print(f"[dim]hint [/] {_plain(hint)}")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
