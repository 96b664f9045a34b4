"""Folders are replaced atomically, and operating system errors become clear messages."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_af.errors import EdgeAfError
from edge_af.files import check_replaceable, explain_os_errors, lock_output, locked, staged_folder, write_atomic


def _make(out: Path, text: str, *, overwrite: bool = False) -> None:
    with staged_folder(out, ("*.txt",), overwrite=overwrite) as stage:
        (stage / "a.txt").write_text(text)


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    _make(out, "one")
    with pytest.raises(EdgeAfError, match="pass --overwrite"):
        _make(out, "two")
    _make(out, "two", overwrite=True)
    assert (out / "a.txt").read_text() == "two"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    _make(tmp_path / "out", "one")
    _make(tmp_path / "out", "two", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "a.txt").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_a_folder_that_cannot_be_replaced_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    _make(out, "one")
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        # Only the rename of the new folder fails, so the old one has to be restored.
        if target == out and ".old." not in path.name:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(EdgeAfError, match=r"out: cannot write here \(.*busy"):
        _make(out, "two", overwrite=True)
    assert (out / "a.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(EdgeAfError, match="mount point"):
        check_replaceable(Path("/proc"), ("*",), True)
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(EdgeAfError, match="mount point"), staged_folder(tmp_path / "link", ("*",), overwrite=True):
        pytest.fail("the work was started")


def test_files_in_folders_below_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    check_replaceable(tmp_path, ("train", "*.txt"), True)
    (tmp_path / "train" / "a.txt").write_text("")
    with pytest.raises(EdgeAfError, match=r"train/a\.txt"):
        check_replaceable(tmp_path, ("train", "*.txt"), True)
    check_replaceable(tmp_path, ("train/*.txt",), True)
    # A link to a folder is not followed.
    (tmp_path / "link").symlink_to(tmp_path / "train")
    with pytest.raises(EdgeAfError, match="'link'"):
        check_replaceable(tmp_path, ("train/*.txt", "link/*.txt"), True)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.EACCES])
def test_every_refusal_of_the_system_is_a_plain_line(number: int) -> None:
    with pytest.raises(EdgeAfError) as error, explain_os_errors(Path("some/where")):
        raise OSError(number, os.strerror(number))
    assert str(error.value) == f"some/where: cannot write here ({os.strerror(number)})."


def test_what_is_no_refusal_comes_through() -> None:
    for odd in (OSError("no reason given"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        with pytest.raises(OSError) as error, explain_os_errors(Path("x")):
            raise odd
        assert error.value is odd


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/out")
    for text in ("one", "two"):
        write_atomic(tmp_path / "out", text)
        assert (tmp_path / "out").is_symlink() and (tmp_path / "disk/out").read_text() == text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "out", "out"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """Pipes and devices are written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, "text")
    assert os.read(reader, 99) == b"text" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_device_is_a_plain_line() -> None:
    before = Path("/dev/full").stat()
    with pytest.raises(EdgeAfError, match="/dev/full: no space left"):
        write_atomic(Path("/dev/full"), "text")
    assert Path("/dev/full").stat().st_ino == before.st_ino


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(EdgeAfError, match="is a folder; name a file"):
        write_atomic(tmp_path, "text")


def _in_another_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"import sys; from pathlib import Path\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_is_one_process_s_at_a_time_and_free_after_a_kill(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    code = (
        "from edge_af.files import lock_output\nwith lock_output(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    other = _in_another_process(code, out)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(EdgeAfError, match="another edge-af process is writing here"), lock_output(out):
        pytest.fail("both hold it")
    other.kill()
    other.communicate()
    assert len([*tmp_path.rglob(".*lock")]) == 1
    with lock_output(out):
        pass
    assert not [*tmp_path.rglob(".*lock")]


def test_a_process_that_waits_for_a_lock_gets_it_when_it_is_let_go(tmp_path: Path) -> None:
    code = "from edge_af.files import locked\nwith locked(Path(sys.argv[1]), 'busy', wait=True): print('held')"
    with locked(tmp_path / "lock", "busy"):
        other = _in_another_process(code, tmp_path / "lock")
        with pytest.raises(subprocess.TimeoutExpired):
            other.communicate(timeout=0.5)
    assert other.communicate(timeout=30)[0] == "held\n"
    assert [*tmp_path.iterdir()] == []


def test_a_lock_file_that_leads_elsewhere_is_refused_and_its_target_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".out.lock").symlink_to("precious")
    with pytest.raises(EdgeAfError, match=r"\.out\.lock"), lock_output(tmp_path / "out"):
        pytest.fail("followed")
    assert (tmp_path / "precious").read_text() == "kept"
    os.mkfifo(tmp_path / ".pipe.lock")
    with pytest.raises(EdgeAfError, match="not a regular file"), lock_output(tmp_path / "pipe"):
        pytest.fail("held")


def test_what_comes_into_the_folder_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _make(out, "one")
    with staged_folder(out, ("*.txt",), overwrite=True) as stage:
        (stage / "a.txt").write_text("two")
        (out / "deep").mkdir()
        (out / "deep/theirs").write_text("precious")
        (out / "b.txt").write_text("precious too")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "a.txt", "b.txt", "deep/theirs",
    }  # fmt: skip
    assert (out / "a.txt").read_text() == "two" and (out / "deep/theirs").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_others_make_meanwhile_keeps_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If both folders contain the same name, both files are kept and a message says where."""
    out = tmp_path / "out"
    with staged_folder(out, ("*.txt",)) as stage:
        (stage / "a.txt").write_text("ours")
        out.mkdir()
        (out / "a.txt").write_text("theirs")
        (out / "c.txt").write_text("theirs")
    assert (out / "a.txt").read_text() == "ours" and (out / "c.txt").read_text() == "theirs"
    (aside,) = tmp_path.glob(".out.old.*")
    assert (aside / "a.txt").read_text() == "theirs" and str(aside) in capsys.readouterr().err


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out, ("*.txt",)) as stage:
        with pytest.raises(EdgeAfError, match="another edge-af process is writing here"):
            _make(out, "second")
        (stage / "a.txt").write_text("first")
    assert (out / "a.txt").read_text() == "first" and [path.name for path in tmp_path.iterdir()] == ["out"]
