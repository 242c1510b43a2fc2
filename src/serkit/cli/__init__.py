"""The command ``serkit``: parse, call one function, print, exit code.

Exit codes: 0 done; 1 our fault; 2 the input's fault (one line that says what to do). Progress bars
go to standard error and only to a terminal; results go to standard output.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback

import typer

from serkit.cli.data import corpora, extract, prepare
from serkit.cli.judging import compare, evaluate, report, robustness, score
from serkit.cli.training import export_experts, import_config, import_weights, join_experts, train
from serkit.cli.using import demo, doctor, predict, transcribe
from serkit.types import InputError

__all__ = ["app", "main"]

app = typer.Typer(
    name="serkit",
    help="Speech emotion recognition, honestly judged.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _verb in (  # in the order of serkit --help
    demo,
    corpora,
    prepare,
    extract,
    train,
    evaluate,
    compare,
    report,
    predict,
    score,
    transcribe,
    robustness,
    import_weights,
    import_config,
    export_experts,
    join_experts,
    doctor,
):
    app.command()(_verb)


def main() -> None:
    """Run the command and turn errors into exit codes."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        if debug:
            traceback.print_exc()
        print(f"serkit: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (serkit ... | head); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, whichever click typer brings along
            usage = getattr(error, "ctx", None)
            if usage is not None:
                print(usage.get_usage(), file=sys.stderr)
            print(f"serkit: {error.format_message()}", file=sys.stderr)
            sys.exit(2)
        if debug:
            traceback.print_exc()
        print(
            f"serkit: internal error: {type(error).__name__}: {error} (run with --debug for the "
            "traceback, and please report it)",
            file=sys.stderr,
        )
        sys.exit(1)
    if code == 130:
        print("serkit: stopped; what was done is kept (train --resume goes on)", file=sys.stderr)
    sys.exit(code or 0)
