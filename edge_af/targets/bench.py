"""A bench on another machine: what it needs goes there, the results come back."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edge_af.artifacts import CPU_OF_MACHINE, MANIFEST
from edge_af.bench.subject import SENSITIVITY, Subject, check_classes
from edge_af.bench.suite import Suite
from edge_af.console import Progress, say, warn
from edge_af.data.dataset import ARRAYS, INDEX, Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file, sha256_json
from edge_af.machine.device import project_commit, this_device
from edge_af.packages import (
    PINNED,
    NoWheels,
    app_archive,
    download_wheels,
    no_wheels,
    requirement_groups,
)  # fmt: skip
from edge_af.records.results import Results, read_results
from edge_af.subprocesses import signal_in_words
from edge_af.targets import SshTarget
from edge_af.targets.ssh import Connection, RequestRefused, Unreachable
from edge_af.typed import Mismatch, built

BLOCK = 1 << 20

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a bench ran; `results` are the rows that the board had finished by then, None if there is none."""

    def __init__(self, results: Results | None) -> None:
        super().__init__()
        self.results = results


@dataclass(frozen=True)
class RemoteMachine:
    """What a machine says of itself, see `edge_af.targets.agent.probe`."""

    machine: str
    bits: int
    python: tuple[int, int]
    libc: str
    libc_version: str
    system: str
    venv: bool
    ensurepip: bool
    folder: str


@dataclass(frozen=True)
class Ran:
    """What became of a bench there."""

    results: str | None
    """The text of its results file."""
    status: int


@dataclass(frozen=True)
class Environment:
    """The Python there that has the packages."""

    python: str | None
    """None if it is not made yet."""
    left_out: list[str] = field(default_factory=list)
    """Packages that there are none of for it."""


@dataclass(frozen=True)
class Missing:
    """What the board lacks of files: by hash, how much of them it has."""

    missing: dict[str, int]


@dataclass(frozen=True)
class Checked:
    """What `doctor` found there."""

    status: int
    output: str


@dataclass(frozen=True)
class Upload:
    """Bytes to be on the board, known by their hash."""

    sha256: str
    size: int
    source: Path | bytes

    def blocks(self, start: int) -> Iterator[bytes]:
        """The bytes from `start` on."""
        if isinstance(self.source, bytes):
            yield self.source[start:]
            return
        with self.source.open("rb") as file:
            file.seek(start)
            # Never more than was said: the file may have grown since it was hashed.
            left = self.size - start
            while left > 0 and (block := file.read(min(left, BLOCK))):
                left -= len(block)
                yield block


def bench_on_target(
    target: SshTarget,
    subjects: Sequence[Subject],
    dataset: Dataset | None,
    arguments: Sequence[str],
    *,
    suite: Suite | None = None,
    suite_file: Path | None = None,
    fresh: bool = False,
    offline: bool = False,
) -> Results:
    """Bench exported files on another machine. A broken connection is made again, and the bench goes on.

    Args:
        target: the machine.
        subjects: the files.
        dataset: the evaluation set, if any.
        arguments: what `edge-af bench` is told there beside the files, the data, the suite and the place of the results.
        suite: of the subjects those that it compares are benched.
        suite_file: the suite's file.
        fresh: start over, and do not go on with an interrupted bench of the same files and arguments.
        offline: get packages here and copy them, where the target has no network.

    Raises:
        EdgeAfError: the machine cannot be reached or cannot run edge-af, or the bench there gave no results.
        Interrupted: by Ctrl-C; nothing goes on there.
    """
    if dataset is not None:
        for subject in subjects:
            check_classes(subject.path, subject.classes, dataset)
    client = uuid.uuid4().hex
    with Connection(target) as connection:
        board = _probed(connection)
        if suite is not None and suite_file is not None:
            subjects = suite.choose(subjects, suite_file, machine=board.machine)
        _warn_of_other_processors(subjects, board, target)
        app = _app()
        layout = _layout(subjects, dataset, suite_file)
        python = _environment(connection, board, client, offline)
        _copy(connection, [app, *layout.values()])
        names = [str(PurePosixPath("exports", subject.artifact, subject.path.name)) for subject in subjects]
        options = list(arguments)
        options += ["--data", _data_place(dataset)] if dataset is not None else []
        options += ["--suite", "suite.yaml"] if suite_file is not None else []
        named = [[name, upload.sha256] for name, upload in layout.items()]
        session = sha256_json([named, options, names])[:16]
        request = {
            "do": "run",
            "client": client,
            "session": session,
            "app": app.sha256,
            "python": python,
            "layout": named,
        }

        def run() -> dict[str, Any]:
            nonlocal fresh
            # Once: of a bench that is gone on with after the connection broke, nothing is thrown away.
            anew, fresh = fresh, False
            line = [*names, *options, *(["--fresh"] if anew else [])]
            answer = connection.call({**request, "fresh": anew, "arguments": line}, on_line=_relay(target))
            if answer.get("interrupted"):
                raise Unreachable(f"{target.label}: heard nothing of this machine for a minute and stopped.")
            return answer

        try:
            found = _told(Ran, connection.persist(run), target)
        except KeyboardInterrupt as interruption:
            answer = ((interruption.args or [None])[0] or {}).get("done")
            raise Interrupted(_results(_told(Ran, answer, target).results if answer else None)) from None
        results = _results(found.results)
        if results is None or not results.is_complete:
            raise EdgeAfError(f"{target.label}: {_ended(found.status)}")
        connection.persist(lambda: connection.call({"do": "forget", "session": session}))
        return with_versions(results, target.label)


def doctor_on_target(target: SshTarget, arguments: Sequence[str], *, offline: bool = False) -> tuple[int, str]:
    """Run `edge-af doctor` with these arguments on another machine.

    Returns:
        its exit status and what it printed.

    Raises:
        EdgeAfError: the machine cannot be reached, or cannot have the packages that edge-af needs.
    """
    with Connection(target) as connection:
        board, app = _probed(connection), _app()
        python = _environment(connection, board, uuid.uuid4().hex, offline)
        _copy(connection, [app])
        request = {"do": "doctor", "app": app.sha256, "python": python, "arguments": list(arguments)}
        found = _told(Checked, connection.persist(lambda: connection.call(request)), target)
        return found.status, found.output


def _probed(connection: Connection) -> RemoteMachine:
    """What the machine says of itself, once it is known that edge-af can run there."""
    found = connection.persist(lambda: connection.call({"do": "probe"}))
    board = _told(RemoteMachine, found, connection.target)
    _check(board, connection.target)
    return board


def _told(kind: type[T], answer: Any, target: SshTarget) -> T:
    """What the agent answered, checked: it may be an old one, or a machine that garbles what it sends."""
    try:
        return built(kind, answer, unknown=True)
    except Mismatch as error:
        raise EdgeAfError(f"{target.label}: its answer cannot be read ({error}).") from None


def _app() -> Upload:
    archive = app_archive()
    return Upload(hashlib.sha256(archive).hexdigest(), len(archive), archive)


def _check(board: RemoteMachine, target: SshTarget) -> None:
    """Refuse a machine on which no runtime can be installed."""
    if (reason := no_wheels(board.machine, board.bits)) is not None:
        raise EdgeAfError(f"{target.label}: {reason}")
    if board.libc != "glibc":
        raise EdgeAfError(
            f"{target.label}: {board.system} has another C library than glibc, and the runtimes' wheels need glibc.\n"
            "Run a Debian in a container or under proot on it."
        )


def _warn_of_other_processors(subjects: Sequence[Subject], board: RemoteMachine, target: SshTarget) -> None:
    kind = CPU_OF_MACHINE.get(board.machine.lower(), board.machine)
    for subject in subjects:
        if subject.cpu not in (None, kind):
            warn(
                f"{subject.path}: made for {subject.cpu}, and {target.label} is {board.machine}: it will be slower there than "
                f"a file made with `edge-af export --cpu {kind}`."
            )


def _layout(subjects: Sequence[Subject], dataset: Dataset | None, suite_file: Path | None) -> dict[str, Upload]:
    """What is laid out on the board, by its path there. Folders keep the names that results call them by."""
    found: dict[str, Upload] = {}
    for subject in subjects:
        folder = PurePosixPath("exports", subject.artifact)
        beside = [subject.path.parent / name for name in (MANIFEST, SENSITIVITY)]
        for path in [subject.path, *(path for path in beside if path.is_file())]:
            place = str(folder / path.name)
            if place not in found:
                known = subject.sha256 if path == subject.path else None
                found[place] = _upload(path, known)
    if dataset is not None:
        place = _data_place(dataset)
        for name in (INDEX, *(f"{stem}.npy" for stem in ARRAYS)):
            found[f"{place}/{name}"] = _upload(dataset.folder / name)
    if suite_file is not None:
        found["suite.yaml"] = _upload(suite_file)
    return found


def _data_place(dataset: Dataset) -> str:
    return f"data/{dataset.folder.resolve().name or 'data'}"


def _upload(path: Path, sha256: str | None = None) -> Upload:
    return Upload(sha256 or sha256_file(path), path.stat().st_size, path)


def _environment(connection: Connection, board: RemoteMachine, client: str, offline: bool) -> str:
    """The Python on the board that has the packages, made there once: in this machine's versions if they are to be had."""
    label = connection.target.label
    found: Environment | None = None
    for groups in (requirement_groups(pinned=True), requirement_groups()):
        try:
            other = _environment_with(groups, connection, board, client, offline)
        except (RequestRefused, NoWheels) as error:
            if groups == requirement_groups():
                if found is not None:
                    break
                if isinstance(error, RequestRefused) and error.kind == "packages" and not offline:
                    advice = "Without a network there, pass --offline: packages are got here."
                    raise EdgeAfError(f"{error}\n{advice}") from None
                raise
            if isinstance(error, RequestRefused) and error.kind != "packages":
                raise
            continue
        if found is None or len(other.left_out) < len(found.left_out):
            found = other
        if not found.left_out:
            break
    assert found is not None
    for name in found.left_out:
        warn(f"{label}: there is no package of {name} for it; its rows will say so.")
    return str(found.python)


def _environment_with(
    groups: dict[str, list[str]], connection: Connection, board: RemoteMachine, client: str, offline: bool
) -> Environment:
    """The environment with these packages, made if it is not there.

    Raises:
        RequestRefused: the board cannot have it.
        NoWheels: there are no such packages for it.
        EdgeAfError: its Python cannot make one.
    """
    label = connection.target.label

    def made(wheels: Any) -> Environment:
        request = {"do": "environment", "client": client, "requirements": groups, "wheels": wheels}
        answer = connection.persist(lambda: connection.call(request, on_line=_relay(connection.target)))
        return _told(Environment, answer, connection.target)

    found = made(None)
    if found.python is not None:
        return found
    without = f"{label}: Python {'.'.join(map(str, board.python))} there has no"
    install = f"On {board.system}: sudo apt install python3-venv"
    if not board.venv:
        raise EdgeAfError(f"{without} `venv` module.\n{install}")
    if not offline and not board.ensurepip:
        raise EdgeAfError(f"{without} `ensurepip` module, which `venv` needs.\n{install}; or pass --offline.")
    say(f"{label}: making an environment in {board.folder}, once ({board.machine}, {board.system})")
    if not offline:
        return made("pip")
    # What there is no wheel of, pip on the board finds no distribution of either, and leaves it out.
    _, files = download_wheels(groups, board.machine, board.python, board.libc_version)
    uploads = [_upload(path) for path in files]
    _copy(connection, uploads)
    return made([[path.name, upload.sha256] for path, upload in zip(files, uploads, strict=True)])


def with_versions(results: Results, label: str) -> Results:
    """The results, with a warning of packages that the target has in other versions than this machine."""
    here = this_device().versions
    differing = [
        f"{name} {there} ({here[name]} here)"
        for name, there in results.device.versions.items()
        if name in PINNED and here.get(name, there) != there
    ]
    if not differing:
        return results
    text = f"{label} has {', '.join(differing)}: figures of the two are not of one version."
    if text in results.warnings:
        return results
    return dataclasses.replace(results, warnings=[*results.warnings, text])


def _copy(connection: Connection, uploads: Sequence[Upload]) -> None:
    """Have the board hold these bytes: only those that it lacks travel, a part that is there already not again."""
    by_hash = {upload.sha256: upload for upload in uploads}

    def missing() -> dict[str, int]:
        answer = connection.call({"do": "missing", "files": list(by_hash)})
        found = _told(Missing, answer, connection.target).missing
        # A part that is larger than the whole is none.
        return {sha256: held if held <= by_hash[sha256].size else 0 for sha256, held in found.items()}

    lacking = connection.persist(missing)
    if not lacking:
        return
    total = sum(by_hash[sha256].size - held for sha256, held in lacking.items())
    with Progress(f"copying to {connection.target.label}", round(total / 1e6) or 1, "MB") as progress:

        def send() -> None:
            nonlocal lacking
            # After a broken connection it is asked again.
            uploads = [(by_hash[sha256], held) for sha256, held in (lacking or missing()).items()]
            lacking = {}
            sent = counted = 0

            def payload() -> Iterator[bytes]:
                nonlocal sent, counted
                for upload, held in uploads:
                    for block in upload.blocks(held):
                        yield block
                        sent += len(block)
                        progress.update(sent // 1_000_000 - counted)
                        counted = sent // 1_000_000

            if uploads:
                files = [[upload.sha256, upload.size, held] for upload, held in uploads]
                connection.call({"do": "put", "files": files}, payload())

        connection.persist(send)


def _relay(target: SshTarget) -> Callable[[str], None]:
    def relay(line: str) -> None:
        # Where they lie there is of no use here.
        if not line.startswith("results: "):
            say(f"{target.label}: {line}")

    return relay


def _results(text: str | None) -> Results | None:
    if text is None:
        return None
    with tempfile.TemporaryDirectory(prefix="edge-af-") as folder:
        path = Path(folder) / "results.json"
        path.write_text(text, encoding="utf-8")
        results = read_results(path)
    # What ran there is this installation.
    return results if results.commit is not None else dataclasses.replace(results, commit=project_commit())


def _ended(status: int) -> str:
    """How a bench ended that left no results."""
    if status < 0:
        name, meaning = signal_in_words(-status, "")
        return f"the bench there was ended by {name}: {meaning}.\nThe same command goes on from there."
    return f"the bench there ended with status {status} and without results; what it said stands above."
