"""The command line. A verb's module is imported when that verb is called, so that `edge-af bench` never loads torch."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import click

from edge_af import __version__
from edge_af.console import discard, prepare_streams, say, unheard
from edge_af.errors import EdgeAfError, missing_extra

VERBS = {
    "demo": "The whole way, from TFRecords to the table and the page.",
    "data": "Make, convert and describe data sets.",
    "train": "Train a network on a prepared data set.",
    "models": "List the networks, their presets and their sizes.",
    "export": "Turn a trained network into ONNX and TFLite files.",
    "eval": "Measure the accuracy of a run, an ONNX or a TFLite file.",
    "bench": "Accuracy, size, latency and memory, side by side.",
    "targets": "Prepare this machine for benching elsewhere.",
    "compare": "Whether a candidate is slower, larger or worse than its base.",
    "report": "Make the table and the page from results.",
    "predict": "Label videos with a run, an ONNX or a TFLite file.",
    "bundle": "Put an export into one signed file to ship.",
    "verify": "Whether such a file is whole, and whose it is.",
    "doctor": "What this machine can run, and why not.",
}
"""Each verb is the module of that name in `edge_af.cli`, holding a command named `command`."""

EXTRA_OF = {
    "torch": "train",
    "safetensors": "train",
    "tensorflow": "train",
    "onnx": "export",
    "onnxscript": "export",
    "flatbuffers": "export",
    "yaml": "export",
}


class ReaderGone(Exception):
    """Whoever read our output has closed it (`… | head`). No OSError: of those click makes an exit status of its own."""


class LazyVerbs(click.Group):
    """Knows its verbs by name and imports one only to run it or to show its help."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise ReaderGone from None

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"edge_af.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " `edge-af --help` lists the verbs."
            raise click.UsageError(f"there is no verb {args[0]!r}.{hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge-af")
def cli() -> None:
    """Train a compact audio-visual video classifier, put it on a Raspberry Pi or an Android phone, and prove what it keeps.

    Exit status: 0 done; 1 a gate failed; 2 the command line or the input is at fault; 3 could not tell.
    """


def main() -> None:
    """Entry point of the console script: turns the errors we raise into one or two lines and an exit status."""
    prepare_streams()
    try:
        status = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except click.ClickException as error:
        with unheard():
            error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("edge-af: interrupted.")
        status = 130
    except EdgeAfError as error:
        say(f"edge-af: {error}")
        status = error.exit_status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        # torch comes with either extra; the one named is the one whose verb was called.
        absent = missing_extra(package, "export" if sys.argv[1:2] == ["export"] else EXTRA_OF[package])
        say(f"edge-af: {absent}")
        status = absent.exit_status
    except (ReaderGone, BrokenPipeError):
        # There is nobody left to tell.
        discard(sys.stdout)
        status = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"edge-af: {where}{error.strerror or error}.")
        status = EdgeAfError.exit_status
    sys.exit(status if isinstance(status, int) else 0)
