"""Backend for a board over ssh: copy what it needs once, then fetch the figures of each measurement."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar

from edge_af.artifacts import CPU_OF_MACHINE
from edge_af.bench.backend import Machine, Measured, OnScored, OnStage, TargetOptions
from edge_af.bench.local import job_of
from edge_af.bench.request import PlannedRow
from edge_af.console import Progress, say, warn
from edge_af.data.dataset import ARRAYS, INDEX, Dataset
from edge_af.errors import EdgeAfError
from edge_af.files import sha256_file, sha256_json
from edge_af.machine.conditions import Conditions
from edge_af.machine.device import Device, this_device
from edge_af.packages import PINNED, NoWheels, app_archive, download_wheels, no_wheels, requirement_groups
from edge_af.records.results import Bandwidth, Method
from edge_af.targets.ssh import Connection, RequestRefused, SshTarget, parse_ssh
from edge_af.typed import Mismatch, built

BLOCK = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteMachine:
    """Description of a machine, see `edge_af.targets.agent.probe`."""

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
class Environment:
    """The virtual environment on the board."""

    python: str | None
    """Path of its Python; None if it is not set up yet."""
    left_out: list[str] = field(default_factory=list)
    """Packages without a wheel for the board."""


@dataclass(frozen=True)
class Missing:
    """Files that the board lacks: hash to number of bytes that it already has."""

    missing: dict[str, int]


@dataclass(frozen=True)
class DoctorOutput:
    """Output of `doctor` on the board."""

    status: int
    output: str


@dataclass(frozen=True)
class Described:
    """Description of a board at the start of the bench."""

    device: Device
    conditions: Conditions


@dataclass(frozen=True)
class MemorySpeeds:
    """Memory bandwidth of a board."""

    bandwidth: list[Bandwidth]


@dataclass(frozen=True)
class Scored:
    """Result of scoring on the board."""

    fields: dict[str, Any]
    outcomes: str | None
    """File of `edge_af.metrics.bootstrap.save_outcomes` in base64."""


@dataclass(frozen=True)
class Upload:
    """Bytes to copy to the board, identified by their hash."""

    sha256: str
    size: int
    source: Path | bytes

    def blocks(self, start: int) -> Iterator[bytes]:
        """Yield the bytes from `start` on."""
        if isinstance(self.source, bytes):
            yield self.source[start:]
            return
        with self.source.open("rb") as file:
            file.seek(start)
            # Never send more than announced: the file may have grown since it was hashed.
            left = self.size - start
            while left > 0 and (block := file.read(min(left, BLOCK))):
                left -= len(block)
                yield block


class RemoteBoard:
    """A board reached over ssh, with what edge-af needs on it."""

    def __init__(self, target: SshTarget, offline: bool) -> None:
        self.target, self._offline = target, offline
        self._client = uuid.uuid4().hex
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        self._connection = Connection(self.target)
        self._connection.__enter__()
        try:
            self.about = self.ask(RemoteMachine, {"do": "probe"})
            self._check()
        except BaseException:
            self._connection.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    def ask(self, kind: type[T], request: dict[str, Any], on_line: Callable[[str], None] | None = None) -> T:
        """Send a repeatable request and check its answer, which may be garbled.

        Raises:
            EdgeAfError: the board cannot fulfill it, cannot be reached, or gives another answer.
        """
        relay = on_line or (lambda line: say(f"{self.target.label}: {line}"))
        answer = self._connection.persist(lambda: self._connection.call(request, on_line=relay))
        try:
            return built(kind, answer, unknown=True)
        except Mismatch as error:
            raise EdgeAfError(f"{self.target.label}: cannot read its answer ({error}).") from None

    def _check(self) -> None:
        """Refuse a machine on which no runtime can be installed."""
        label, about = self.target.label, self.about
        if (reason := no_wheels(about.machine, about.bits)) is not None:
            raise EdgeAfError(f"{label}: {reason}")
        if about.libc != "glibc":
            raise EdgeAfError(
                f"{label}: {about.system} does not use glibc, which the runtimes' wheels need.\n"
                "Run a Debian in a container or under proot on it."
            )

    def install(self, app: Upload) -> str:
        """Install edge-af and its packages on the board; return the Python that has them."""
        python = self._environment()
        self.copy([app])
        return python

    def serve(self, app: Upload, python: str, layout: Sequence[tuple[str, Upload]]) -> None:
        """Copy the files and start edge-af on the board to serve the later requests, also after a reconnection."""
        named = [[name, upload.sha256] for name, upload in layout]
        uploads = [app, *(upload for _, upload in layout)]
        request = {
            "do": "serve",
            "client": self._client,
            "session": sha256_json(named)[:16],
            "app": app.sha256,
            "python": python,
            "layout": named,
        }

        def start() -> None:
            self._connection.on_open = lambda: None  # Copying may also reconnect.
            self.copy(uploads)
            self._connection.persist(lambda: self._connection.call(request))
            self._connection.on_open = start

        start()

    def _environment(self) -> str:
        """Return the Python that has the packages, set up once, with this machine's versions where available."""
        found: Environment | None = None
        for groups in (requirement_groups(pinned=True), requirement_groups()):
            try:
                other = self._environment_with(groups)
            except (RequestRefused, NoWheels) as error:
                if groups == requirement_groups():
                    if found is not None:
                        break
                    if isinstance(error, RequestRefused) and error.kind == "packages" and not self._offline:
                        advice = "If it has no network, pass --offline to download the packages here."
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
            warn(f"{self.target.label}: no package of {name} exists for it; rows in that runtime are not measured.")
        return str(found.python)

    def _environment_with(self, groups: dict[str, list[str]]) -> Environment:
        """Set up the environment with these packages, unless it exists.

        Raises:
            RequestRefused: the board cannot set it up.
            NoWheels: these packages do not exist for the board.
            EdgeAfError: its Python cannot create an environment.
        """

        def made(wheels: Any) -> Environment:
            request = {"do": "environment", "client": self._client, "requirements": groups, "wheels": wheels}
            return self.ask(Environment, request)

        label, about, offline = self.target.label, self.about, self._offline
        found = made(None)
        if found.python is not None:
            return found
        without = f"{label}: its Python {'.'.join(map(str, about.python))} has no"
        install = f"On {about.system}: sudo apt install python3-venv"
        if not about.venv:
            raise EdgeAfError(f"{without} `venv` module.\n{install}")
        if not offline and not about.ensurepip:
            raise EdgeAfError(f"{without} `ensurepip` module, which `venv` needs.\n{install}; or pass --offline.")
        say(f"{label}: setting up an environment in {about.folder}, once ({about.machine}, {about.system})")
        if not offline:
            return made("pip")
        # Without a wheel, pip on the board cannot find the package either, and leaves it out.
        _, files = download_wheels(groups, about.machine, about.python, about.libc_version)
        uploads = [upload_of(path) for path in files]
        self.copy(uploads)
        return made([[path.name, upload.sha256] for path, upload in zip(files, uploads, strict=True)])

    def copy(self, uploads: Sequence[Upload]) -> None:
        """Copy to the board those of these bytes that it lacks, resuming partial files."""
        by_hash = {upload.sha256: upload for upload in uploads}

        def lacking() -> dict[str, int]:
            missing = self.ask(Missing, {"do": "missing", "files": list(by_hash)}).missing
            # A partial file larger than the whole is invalid.
            return {sha256: held if held <= by_hash[sha256].size else 0 for sha256, held in missing.items()}

        wanted = lacking()
        if not wanted:
            return
        total = sum(by_hash[sha256].size - held for sha256, held in wanted.items())
        with Progress(f"copying to {self.target.label}", round(total / 1e6) or 1, "MB") as progress:
            first: list[dict[str, int]] = [wanted]

            def send() -> None:
                sent = counted = 0

                def payload() -> Iterator[bytes]:
                    nonlocal sent, counted
                    for sha256, held in parts.items():
                        for block in by_hash[sha256].blocks(held):
                            yield block
                            sent += len(block)
                            progress.update(sent // 1_000_000 - counted)
                            counted = sent // 1_000_000

                # Ask the board again after a reconnection.
                parts = first.pop() if first else lacking()
                if parts:
                    files = [[sha256, by_hash[sha256].size, held] for sha256, held in parts.items()]
                    self._connection.call({"do": "put", "files": files}, payload())

            self._connection.persist(send)


class SshBackend:
    """A board over ssh. See `edge_af.bench.backend.Backend`."""

    uses_videos = True

    def __init__(self, target: SshTarget, offline: bool) -> None:
        self.label, self._board = target.label, RemoteBoard(target, offline)

    def __enter__(self) -> Self:
        self._board.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:  # The bench is complete.
                self._board.ask(dict, {"do": "end"})
        finally:
            self._board.__exit__(kind, error, trace)

    @property
    def machine(self) -> str:
        return self._board.about.machine

    def method(self, wanted: Method) -> Method:
        return wanted

    def refuses(self, row: PlannedRow) -> None:
        return None

    def prepare(self, plan: Sequence[PlannedRow], dataset: Dataset | None, method: Method, scratch: Path) -> None:
        kind = CPU_OF_MACHINE.get(self.machine.lower(), self.machine)
        subjects = list({row.key: row.subject for row in plan}.values())
        for subject in subjects:
            if subject.cpu not in (None, kind):
                warn(
                    f"{subject.path}: made for {subject.cpu}, but {self.label} is {self.machine}: it will be slower there "
                    f"than a file from `edge-af export --cpu {kind}`."
                )
        # Files keep their names there, because the suffix determines the runtime.
        layout = {_place(row): upload_of(row.subject.path, row.subject.sha256) for row in plan}
        if dataset is not None:
            for name in (INDEX, *(f"{stem}.npy" for stem in ARRAYS)):
                layout[f"data/{name}"] = upload_of(dataset.folder / name)
        self._data, self._method = "data" if dataset is not None else None, method
        app = app_upload()
        self._board.serve(app, self._board.install(app), list(layout.items()))

    def describe(self) -> Machine:
        found = self._board.ask(Described, {"do": "describe"})
        return Machine(found.device, found.conditions, warnings=version_warnings(found.device, self.label))

    def bandwidth(self, threads: Sequence[int], weight_bytes: Sequence[int]) -> list[Bandwidth]:
        request = {"do": "bandwidth", "threads": list(threads), "weight_bytes": list(weight_bytes)}
        return self._board.ask(MemorySpeeds, request).bandwidth

    def measure(self, row: PlannedRow, method: Method, on_stage: OnStage) -> Measured:
        return self._board.ask(Measured, {"do": "measure", "job": self._job(row, method)}, on_stage)

    def score(
        self, row: PlannedRow, dataset: Dataset, outcomes: Path, on_stage: OnStage, on_scored: OnScored
    ) -> dict[str, Any]:
        found = self._board.ask(Scored, {"do": "score", "job": self._job(row, self._method)}, on_stage)
        if found.outcomes is not None:
            outcomes.write_bytes(base64.b64decode(found.outcomes))
        on_scored(dataset.videos)
        return found.fields

    def _job(self, row: PlannedRow, method: Method) -> dict[str, Any]:
        return dataclasses.asdict(dataclasses.replace(job_of(row, method, self._data), path=_place(row)))


def _place(row: PlannedRow) -> str:
    """Return the path of a row's file on the board."""
    return str(PurePosixPath("exports", row.subject.artifact, row.subject.path.name))


def upload_of(path: Path, sha256: str | None = None) -> Upload:
    """Describe a file to copy."""
    return Upload(sha256 or sha256_file(path), path.stat().st_size, path)


def app_upload() -> Upload:
    """Describe this installation of edge-af, to copy."""
    archive = app_archive()
    return Upload(hashlib.sha256(archive).hexdigest(), len(archive), archive)


def version_warnings(there: Device, label: str) -> tuple[str, ...]:
    """Warn about packages whose versions differ between the target and this machine."""
    here = this_device().versions
    differing = [
        f"{name} {version} ({here[name]} here)"
        for name, version in there.versions.items()
        if name in PINNED and here.get(name, version) != version
    ]
    if not differing:
        return ()
    return (f"{label} has {', '.join(differing)}: their figures are of different versions.",)


def doctor_on_target(target: SshTarget, arguments: Sequence[str], *, offline: bool = False) -> tuple[int, str]:
    """Run `edge-af doctor` with these arguments on another machine.

    Returns:
        its exit code and output.

    Raises:
        EdgeAfError: the machine cannot be reached, or the packages of edge-af cannot be installed there.
    """
    with RemoteBoard(target, offline) as board:
        app = app_upload()
        request = {"do": "doctor", "app": app.sha256, "python": board.install(app), "arguments": list(arguments)}
        found = board.ask(DoctorOutput, request)
        return found.status, found.output


def open_backend(address: str, options: TargetOptions) -> SshBackend:
    """See `edge_af.targets.BACKENDS`."""
    options.refuse_for(address, "benchmark_model", "cores")
    return SshBackend(parse_ssh(address), options.offline)
