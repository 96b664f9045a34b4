"""Standard streams that are closed, full or without a reader, and unexpected errors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.errors import DEFECT

EDGE_AF = f"{sys.executable} -m edge_af"
RAISING = "import sys, edge_af.cli.models as verb\nfrom edge_af.cli import main\n"


def shell(line, **options):
    """Run a line of bash with `pipefail`."""
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, **options)


def raising(statement, folder=None, **environment):
    """Run `statement` within `edge-af models`; given a folder, as `python -m`, for which CPython exits differently."""
    code = f"{RAISING}def callback(**_):\n    {statement}\nverb.command.callback = callback\nmain()"
    if folder is not None:
        (folder / "raising.py").write_text(code)
    command = [sys.executable, *(["-c", code] if folder is None else ["-m", "raising"]), "models"]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=120, env={**os.environ, **environment}, cwd=folder,
        # Background jobs of a shell ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        # The signal arrives in `exec`, as during the creation of a dataclass.
        "exec('import os, signal; os.kill(os.getpid(), signal.{name})')",
        # Like PyTorch's exporter, which wraps every exception in its own.
        """
    try:
        import os, signal
        os.kill(os.getpid(), signal.{name})
    except BaseException as error:
        raise ValueError("could not be done") from error""",
    ],
)
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_has_its_status_wherever_it_comes(statement, name, status, tmp_path):
    statement = statement.format(name=name)
    found = raising(statement, tmp_path)
    assert found.returncode == status and "internal error" not in found.stderr, found.stderr


def test_an_interrupt_in_a_destructor_is_not_lost(tmp_path):
    code = """
    import os, signal, time
    class Dying:
        def __del__(self): os.kill(os.getpid(), signal.SIGINT)
    Dying()
    time.sleep(60)"""
    found = raising(code, tmp_path)
    assert found.returncode == 130 and found.stderr.strip() == "edge-af: interrupted."


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_before_there_is_a_verb_leaves_no_traceback(ignored, tmp_path):
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)")
    found = subprocess.run(
        [sys.executable, "-m", "edge_af", "models"], capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (7 if ignored else -signal.SIGINT, b"")


def test_a_library_that_cannot_be_loaded_is_no_defect():
    found = raising("raise ImportError('libtorch_cpu.so: failed to map segment from shared object', name='torch._C')")
    assert found.returncode == 2
    assert found.stderr == (
        "edge-af: a package cannot be loaded here: libtorch_cpu.so: failed to map segment from shared object\n"
    )
    assert raising("raise ImportError('cannot import name x', name='edge_af.cli')").returncode == 70


@pytest.mark.parametrize(
    "statement",
    ["raise KeyError('x')", "raise EOFError", "raise RecursionError", "raise BrokenPipeError", "import no_such_module"],
)
def test_an_error_that_nobody_foresaw_has_a_status_of_its_own(statement, tmp_path):
    done = raising(statement, TMPDIR=str(tmp_path))
    assert done.returncode == DEFECT == 70 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "please report it" in done.stderr
    (written,) = tmp_path.iterdir()
    assert str(written) in done.stderr and "Traceback" in written.read_text()
    shown = raising(statement, EDGE_AF_TRACEBACK="1", TMPDIR=str(tmp_path))
    assert shown.returncode == DEFECT and "Traceback" in shown.stderr and len([*tmp_path.iterdir()]) == 1


def test_its_text_reaches_the_terminal_in_one_line_without_escape_sequences(tmp_path):
    done = raising(r"raise ValueError('a\n::error::b\x1b]0;c\x07')", TMPDIR=str(tmp_path))
    assert len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_too_little_memory_is_no_defect():
    done = raising("raise MemoryError")
    assert done.returncode == 2 and "out of memory" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure(closed):
    done = shell(f"{EDGE_AF} models {closed}")
    assert done.returncode == 0 and done.stderr == ""


def test_a_file_never_takes_the_place_of_a_closed_stream(eval_dataset, tmp_path):
    done = shell(f"{EDGE_AF} data sample {eval_dataset.folder} --videos 20 --out {tmp_path / 'out'} <&- >&- 2>&-")
    assert done.returncode == 0
    assert shell(f"{EDGE_AF} data info {tmp_path / 'out'}").returncode == 0


full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")


@full
def test_a_full_standard_output_is_said_and_is_no_verdict():
    done = shell(f"{EDGE_AF} models >/dev/full")
    assert done.returncode == 2
    assert (
        done.stderr
        == "warning: standard output: cannot be written (No space left on device), so results are missing there.\n"
    )
    done = shell(f"{EDGE_AF} --help >/dev/full")
    assert done.returncode == 2 and "No space left on device" in done.stderr


@full
def test_a_full_standard_error_changes_nothing(tmp_path):
    assert shell(f"{EDGE_AF} models 2>/dev/full").returncode == 0
    assert shell(f"{EDGE_AF} eval nowhere.onnx --data nowhere 2>/dev/full").returncode == 2
    assert shell(f"{EDGE_AF} eval 2>/dev/full").returncode == 2


@pytest.mark.parametrize("arguments", ["--help", "models --help", "models", "--version"])
def test_a_reader_that_has_gone_is_no_failure_of_any_text(arguments):
    done = shell(f"{EDGE_AF} {arguments} | true")
    assert done.returncode == 0 and done.stderr == ""


@pytest.fixture(scope="module")
def worse(tmp_path_factory, exports):
    """A shell line that compares a file with a truncated copy, so that a gate fails at once."""
    folder = tmp_path_factory.mktemp("worse")
    base = exports / "attend-fusion/attend-fusion-fp32.onnx"
    shutil.copy(base, folder / "candidate.onnx")
    with (folder / "candidate.onnx").open("r+b") as file:
        file.truncate(base.stat().st_size // 2)
    return f"{EDGE_AF} compare {base} {folder / 'candidate.onnx'} --budget 1s --max-growth 0%"


@pytest.mark.parametrize(
    ("streams", "summary"),
    [
        ("| true", ""),
        (">&- 2>&-", ""),
        pytest.param(">/dev/full 2>/dev/full", "", marks=full),
        ("", "/nonexistent/step_summary"),
    ],
)
def test_a_verdict_stands_and_its_files_are_written_whatever_becomes_of_the_terminal(worse, tmp_path, streams, summary):
    files = [tmp_path / name for name in ("out.json", "table.md", "junit.xml", "history.jsonl")]
    named = " ".join(
        f"--{option} {path}" for option, path in zip(("out", "markdown", "junit", "history"), files, strict=True)
    )
    done = shell(f"{worse} {named} {streams}", env={**os.environ, "GITHUB_STEP_SUMMARY": summary})
    assert done.returncode == 1, done.stderr
    assert all(path.stat().st_size for path in files)


@full
def test_a_file_that_cannot_be_written_hides_no_failed_gate(worse, tmp_path):
    done = shell(f"{worse} --out /dev/full --markdown {tmp_path / 'table.md'}")
    assert done.returncode == 1 and "/dev/full" in done.stderr
    assert (tmp_path / "table.md").exists()
