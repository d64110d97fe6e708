"""The command line: every verb parses, calls the package and prints. A mistake is one line on stderr."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer

from titer import __version__
from titer.cli import (
    attack,
    audit,
    certify,
    challenge,
    check,
    compare,
    craft,
    demo,
    export,
    fit,
    listing,
    predict,
    pretrain,
    report,
)
from titer.cli import run as run_verb
from titer.cli.output import note
from titer.errors import InputError, TiterError

app = typer.Typer(
    name="titer",
    help="Measure and raise the adversarial robustness of medical vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for module in (
    demo,
    listing,
    check,
    fit,
    attack,
    certify,
    challenge,
    predict,
    pretrain,
    craft,
    audit,
    run_verb,
    report,
    compare,
    export,
):
    module.register(app)


def _version(shown: bool) -> None:
    if shown:
        print(f"titer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Measure and raise the adversarial robustness of medical vision-language models."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 0 done, 1 the run failed, 2 wrong input, 130 Ctrl-C."""
    try:
        status = app(args=list(arguments), prog_name="titer", standalone_mode=False)
    except InputError as error:
        note(f"titer: {_one_line(error)}")
        return 2
    except TiterError as error:
        note(f"titer: {_one_line(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a table has gone: `titer list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # the option parser's own errors, whose class depends on the version of typer
        if not hasattr(error, "format_message"):
            raise
        note(f"titer: {_one_line(error.format_message())}")
        return 2
    return status if isinstance(status, int) else 0


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def main() -> None:
    """Entry point of the ``titer`` command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.exit(run(sys.argv[1:]))
