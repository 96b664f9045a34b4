"""The command line. A verb's module is imported when that verb is called, so that `edge-af bench` never loads torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from edge_af.__version__ import __version__
from edge_af.console import discard, lose, lost_output, plain, prepare_streams, reader_gone, say, warn
from edge_af.errors import DEFECT, EdgeAfError, unknown

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    from click.shell_completion import CompletionItem

VERBS = {
    "demo": "Run the main path on synthetic data, from TFRecords to the results page.",
    "data": "Make, convert and describe datasets.",
    "features": "Extract the features of video files.",
    "train": "Train a network on a prepared dataset.",
    "models": "List the networks, their presets and their sizes.",
    "export": "Turn a trained network into ONNX and TFLite files.",
    "eval": "Measure the accuracy of a run, an ONNX or a TFLite file.",
    "bench": "Measure accuracy, size, latency and memory side by side.",
    "targets": "Prepare this machine to bench on boards and phones.",
    "compare": "Compare the speed, size and accuracy of a candidate with its base.",
    "report": "Make the table and the page from results.",
    "predict": "Label videos with a run, an ONNX or a TFLite file.",
    "watch": "Label a video while it is decoded.",
    "bundle": "Pack an export folder into one signed file.",
    "verify": "Verify a bundle's checksums and signature.",
    "doctor": "Check which commands this machine can run.",
}
"""Verbs and their one-line help. Each verb has a module of its name in this package, with a function `command`."""

EXTRA_OF = {
    "torch": "train",
    "safetensors": "train",
    "tensorflow": "train",
    "onnx": "export",
    "yaml": "export",
    "pyarrow": "parquet",
    "av": "video",
}


COMPLETE_VARIABLE = "_EDGE_AF_COMPLETE"
"""Environment variable by which a shell asks for completions; click names it."""


class Unforeseen(Exception):
    """Carry an error past click, which turns some errors into exit codes of its own."""


@contextlib.contextmanager
def _past_click() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, EOFError) as error:
        raise Unforeseen from error


class LazyVerbs(click.Group):
    """A group that imports a verb's module only to run it or to show its help."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _past_click():  # This prints the help.
            return super().make_context(*arguments, **extra)

    def invoke(self, context: click.Context) -> Any:
        with _past_click():
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"edge_af.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in VERBS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, context, incomplete)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not context.resilient_parsing:
            raise click.UsageError(unknown("command", args[0], VERBS))
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge-af")
def cli() -> None:
    """Train a compact audio-visual video classifier, put it on a Raspberry Pi or an Android phone, and measure what it loses.

    Exit codes: 0 done; 1 a gate failed; 2 the command line or the input is at fault; 3 inconclusive; 70 a defect of
    edge-af; 130, 143 or 129 ended by Ctrl-C, SIGTERM or SIGHUP.
    """


ended_by: list[int] = []
"""Signals other than Ctrl-C that asked this process to end."""


def _end_as_by_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Handle a signal like Ctrl-C, with cleanup; a second signal ends the process at once."""
    ended_by.append(number)
    signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
        # Shells start background jobs with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _interrupt_again(dropped: UnraisableHookArgs) -> None:
    """Repeat an interrupt that arrived in a destructor or a weakref callback, where Python drops exceptions."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        again = threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT])
        again.daemon = True  # The process may end before the timer fires.
        again.start()
    else:
        sys.__unraisablehook__(dropped)


def main() -> None:
    """Run the command line; turn errors into one or two lines and an exit code."""
    prepare_streams()
    sys.unraisablehook = _interrupt_again
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP.
            signal.signal(number, _end_as_by_ctrl_c)
    status = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        lose(error)
    if (lost := lost_output()) is not None:
        warn(f"standard output: cannot be written ({lost.strerror}), so results are missing there.")
        status = status or EdgeAfError.exit_code
    # If an interrupt passed through `exec` of a string, which dataclasses use, CPython later ends the process by SIGINT
    # instead of with this exit code. Another `exec` clears that state.
    exec("")
    sys.exit(status)


def _run() -> int:
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # Set by `edge_af.__main__`.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if COMPLETE_VARIABLE in os.environ:
            from edge_af.cli.completion import register

            register()
        status = cli.main(standalone_mode=False, complete_var=COMPLETE_VARIABLE)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except EdgeAfError as error:
        say(f"edge-af: {error}")
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            return _report(error)
        from edge_af.packages import install_command

        # Both extras include torch; name the extra of the verb that was called.
        extra = "export" if sys.argv[1:2] == ["export"] else EXTRA_OF[package]
        say(
            f"edge-af: this verb needs the package {package!r}, which is not installed.\nInstall it: {install_command(extra)}"
        )
        return EdgeAfError.exit_code
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "edge_af":
            return _report(error)
        # The library is damaged, built for another system, or exceeds a memory limit.
        say(f"edge-af: a package cannot be loaded here: {plain(str(error))}")
        return EdgeAfError.exit_code
    except MemoryError:
        say("edge-af: out of memory. Close other programs, or use a machine with more.")
        return EdgeAfError.exit_code
    except Unforeseen as error:
        cause = error.__cause__
        assert cause is not None
        if isinstance(cause, BrokenPipeError) and reader_gone():
            discard(sys.stdout)
            return 0  # As in `edge-af --help | head`.
        return _report(cause)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"edge-af: {where}{error.strerror or error}.")
        return EdgeAfError.exit_code
    except Exception as error:
        if _holds_interrupt(error):
            return _interrupted()
        return _report(error)


def _interrupted() -> int:
    """Report the interrupt and return its exit code, 128 + the signal's number."""
    if ended_by:
        say(f"edge-af: ended by {signal.Signals(ended_by[0]).name}.")
        return 128 + ended_by[0]
    say("edge-af: interrupted.")
    return 128 + signal.SIGINT


def _holds_interrupt(error: BaseException | None) -> bool:
    """Return True if a KeyboardInterrupt caused the error. PyTorch's exporter wraps interrupts in errors of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _report(error: BaseException) -> int:
    """Report an unexpected error. The traceback goes to a file, or to standard error with EDGE_AF_TRACEBACK=1."""
    details = "".join(traceback.format_exception(error))
    summary = plain(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
    if os.environ.get("EDGE_AF_TRACEBACK") == "1":
        say(details)
        where = "the traceback above"
    else:
        about = f"edge-af {__version__}, Python {sys.version}, {sys.platform}\n{sys.argv}\n\n"
        try:
            descriptor, name = tempfile.mkstemp(prefix="edge-af-defect-", suffix=".txt")
            with os.fdopen(descriptor, "wb") as file:
                file.write((about + details).encode(errors="backslashreplace"))
            where = f"the file {name}"
        except OSError:
            where = "what it prints with EDGE_AF_TRACEBACK=1"
    say(f"edge-af: internal error: {summary}. This is a defect of edge-af; please report it with {where}.")
    return DEFECT
