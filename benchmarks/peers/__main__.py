"""Export one trained network with every peer, and time all results in one run.

    python -m benchmarks.peers --run runs/attend-fusion --also runs/fc-late-fusion --data runs/data --work runs/peers \\
        --board pi4 --board pi5 --out benchmarks/results/peers

makes a virtual environment for each peer in `--work`, exports the run there by each of the peer's ways, times all files in
interleaved rounds at one and at two threads, scores the evaluation videos, and writes OUT.json and OUT.md. `--also` names
another network that is only exported and loaded; `--board` counts the instructions of ONNX and TFLite files on an emulated
board. Finished steps are kept. A peer is one file in this folder: `NAME`, `REQUIREMENTS`, `WAYS`, `export`, `load` and
`integer_kernels`, and `artifact` if its file is neither model.onnx nor model.tflite.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import click
import numpy as np

from benchmarks.verbs import edge_af, made_by, paragraph, record
from edge_af.console import say
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.emulation.boards import BOARDS
from edge_af.emulation.counts import instruction_counts
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, write_atomic, write_json
from edge_af.metrics import gap_at_20
from edge_af.metrics.bootstrap import interval, outcomes, resampled_gap
from edge_af.models.run import load_run
from edge_af.report.columns import signed

HERE = Path(__file__).resolve().parent
HARNESS = HERE / "harness.py"
PEERS = ("edge_af", "onnxruntime", "litert", "tensorflow", "openvino", "pytorch", "executorch", "ncnn", "mnn")
CALIBRATION_VIDEOS = 512
ROUNDS, SECONDS = 8, 0.5
"""Rounds, and the time of each file in a round."""
MOST_SECONDS = 1800
"""Timeout of an export, or of scoring."""


@dataclass(frozen=True)
class Way:
    """One way of one peer."""

    peer: str
    """Name of its file, without `_peer.py`."""
    way: str

    @property
    def module(self) -> Any:
        return importlib.import_module(f"benchmarks.peers.{self.peer}_peer")

    @property
    def file(self) -> Path:
        return HERE / f"{self.peer}_peer.py"


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--run", type=click.Path(path_type=Path), required=True, help="Run folder of the network.")
@click.option("--also", type=click.Path(path_type=Path), help="Run folder of a network that is only converted.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with prepared train/ and eval/.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for environments and files.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Writes OUT.json and OUT.md.")
@click.option("--only", multiple=True, type=click.Choice(PEERS), help="Only this peer; repeatable.")
@click.option(
    "--board", "boards", multiple=True, type=click.Choice(list(BOARDS)), help="Board to count on; repeatable."
)
@click.option("--quick", is_flag=True, help="Measure less, for a test.")
def main(
    run: Path,
    also: Path | None,
    data: Path,
    work: Path,
    out: Path,
    only: Sequence[str],
    boards: Sequence[str],
    quick: bool,
) -> None:
    work = work.resolve()
    source = _source(run.resolve(), data, work)
    os.environ["EDGE_AF_PEERS_DATA"] = str(data.resolve())
    ways = [Way(peer, way) for peer in (only or PEERS) for way in Way(peer, "").module.WAYS]
    rows = {way: _exported(way, source, work) for way in ways}
    evaluation = open_dataset(data / "eval")
    for way in ways:
        if "error" not in rows[way]:
            rows[way]["size_bytes"] = _size(way, work)
            rows[way]["instructions"] = {board: _instructions(way, work, board) for board in boards}
            _score(way, rows[way], source, work)
    if also is not None:
        second = work / "also"
        other = _source(also.resolve(), data, second)
        for way in ways:
            rows[way]["also"] = _also(way, other, second, _python(way.peer, work))
    for threads in (1, 2):
        _time_all(ways, rows, threads, source, work, quick=quick)
    _add_accuracy(ways, rows, evaluation, work)
    found = {
        **record("peers"),
        "network": _network(run),
        "also": _network(also) if also is not None else None,
        "boards": list(boards),
        "videos": evaluation.videos,
        "rows": [{"peer": way.module.NAME, "way": way.module.WAYS[way.way], **rows[way]} for way in ways],
    }
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), markdown(found))


def _network(run: Path) -> dict[str, Any]:
    found = load_run(run)
    return {"model": found.model, "preset": found.preset, "params": found.params}


def _source(run: Path, data: Path, work: Path) -> Path:
    """Gather what every peer starts from: the run, its FP32 ONNX file, calibration videos and evaluation videos."""
    source = work / "source"
    source.mkdir(parents=True, exist_ok=True)
    if (source / "run").exists() and load_run(source / "run").weights_sha256 != load_run(run).weights_sha256:
        raise click.ClickException(f"{work}: holds files of another run. Choose another --work.")
    if not (source / "run").exists():
        shutil.copytree(run, source / "run")
    if not (source / "fp32.onnx").exists():
        edge_af("export", run, "--format", "onnx", "--out", work / "fp32")
        shutil.copyfile(next((work / "fp32").glob("*-fp32.onnx")), source / "fp32.onnx")
    for name, part, rows in (("calibration", "train", CALIBRATION_VIDEOS), ("eval", "eval", None)):
        if not (source / f"{name}.npz").exists():
            dataset = open_dataset(data / part)
            chosen = np.random.default_rng(0).permutation(dataset.videos)[:rows] if rows else np.arange(dataset.videos)
            features = dataset.features(np.sort(chosen))
            np.savez(source / f"{name}.npz", visual=features.visual, audio=features.audio)
    return source


def _python(peer: str, work: Path) -> Path:
    """Return the Python of a peer's environment, made on first use."""
    requirements = Way(peer, "").module.REQUIREMENTS
    if not requirements:
        return Path(sys.executable)
    folder = work / "environments" / peer
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        say(f"{peer}: installing {', '.join(requirements)}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def _installed_bytes(peer: str, work: Path) -> int | None:
    """Return the size of a peer's packages without pip and setuptools."""
    packages = work / "environments" / peer / "lib"
    if not packages.is_dir():
        return None
    files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files if not {"pip", "setuptools"} & set(path.parts))


def _place(way: Way, work: Path) -> Path:
    return work / "files" / way.peer / way.way


def _exported(way: Way, source: Path, work: Path) -> dict[str, Any]:
    """Export by one way; return its facts, or the error."""
    place = _place(way, work)
    record = place / "facts.json"
    if record.exists():
        return dict(read_json(record, "facts"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    say(f"{way.peer}: exporting {way.way}")
    try:
        python = _python(way.peer, work)
    except subprocess.CalledProcessError as error:
        return {"error": f"cannot be installed: {error}"}
    with _running(way, "export", source, work, python) as (process, answers):
        found = _answer(process, answers, MOST_SECONDS)
    if "error" in found:
        return {"error": found["error"]}
    facts: dict[str, Any] = {
        "export_seconds": found["seconds"],
        "export_peak_bytes": found["peak_bytes"],
        "installed_bytes": _installed_bytes(way.peer, work),
        "kernels": _kernels(way, work, python),
    }
    write_json(record, facts)
    return facts


def _artifact(way: Way, work: Path) -> Path | None:
    """Return the file to ship; None if the peer writes none."""
    place = _place(way, work)
    if hasattr(way.module, "artifact"):
        found: Path | None = way.module.artifact(way.way, place)
        return found
    return next((path for name in ("model.onnx", "model.tflite") if (path := place / name).is_file()), None)


def _size(way: Way, work: Path) -> int | None:
    artifact = _artifact(way, work)
    return artifact.stat().st_size if artifact is not None else None


def _instructions(way: Way, work: Path, board: str) -> dict[str, int] | None:
    """Count the instructions of an inference on an emulated board; None for a file that needs another runtime there."""
    artifact = _artifact(way, work)
    if artifact is None or artifact.suffix not in (".onnx", ".tflite"):
        return None
    path = _place(way, work) / f"instructions-{board}.json"
    if not path.exists():
        say(f"{way.peer}: counting {way.way} on {board}")
        try:
            write_json(path, asdict(instruction_counts(artifact, board)))
        except EdgeAfError as error:
            say(str(error))
            return None
    return dict(read_json(path, "counts"))


def _also(way: Way, source: Path, work: Path, python: Path) -> str:
    """Export and load another network; return `yes`, or the error."""
    place = _place(way, work)
    answer = place.with_suffix(".txt")
    if not answer.exists():
        say(f"{way.peer}: converting the other network by {way.way}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for action in (("export",), ("serve", 1)):
            with _running(way, str(action[0]), source, work, python, *action[1:]) as (process, answers):
                found = _answer(process, answers, MOST_SECONDS)
            if "error" in found:
                break
        answer.write_text(found.get("error", "yes"), encoding="utf-8")
        shutil.rmtree(place)
    return answer.read_text(encoding="utf-8")


def _kernels(way: Way, work: Path, python: Path) -> str:
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('peer', sys.argv[1]); "
        "peer = importlib.util.module_from_spec(spec); spec.loader.exec_module(peer); from pathlib import Path; "
        "print(peer.integer_kernels(sys.argv[2], Path(sys.argv[3])))"
    )
    done = subprocess.run(
        [str(python), "-c", code, str(way.file), way.way, str(_place(way, work))],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
    )
    return done.stdout.strip().rpartition("\n")[2] if done.returncode == 0 else "not shown"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@contextlib.contextmanager
def _running(
    way: Way, action: str, source: Path, work: Path, python: Path, *more: object
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start the harness in the peer's environment."""
    reader, writer = os.pipe()
    command = [str(python), str(HARNESS), str(way.file), action, way.way, str(source), str(_place(way, work))]
    with (work / "log.txt").open("a", encoding="utf-8") as log, os.fdopen(reader, encoding="utf-8") as answers:
        log.write(f"\n$ {way.peer} {way.way} {action}\n")
        log.flush()
        # The harness answers on file descriptor 3.
        shell = ["bash", "-c", f'exec 3>&{writer} {writer}>&-; exec "$@"', "bash", *command, *map(str, more)]
        process = subprocess.Popen(
            shell,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            pass_fds=(writer,),
            env={**_environment(), "OMP_NUM_THREADS": str(more[0]) if more else "2"},
            start_new_session=True,
        )
        os.close(writer)
        try:
            yield process, answers
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _answer(process: subprocess.Popen[str], answers: IO[str], seconds: float) -> dict[str, Any]:
    """Return the harness's next answer."""
    import select

    if not select.select([answers], [], [], seconds)[0]:
        return {"error": f"no answer within {seconds:.0f} s"}
    line = answers.readline()
    if not line:
        status = process.wait()
        return {"error": f"ended by signal {-status}" if status < 0 else f"ended with exit code {status}"}
    found: dict[str, Any] = json.loads(line)
    return found


def _order(process: subprocess.Popen[str], answers: IO[str], **order: Any) -> dict[str, Any]:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return {"error": "its process has ended"}
    return _answer(process, answers, MOST_SECONDS)


def _score(way: Way, row: dict[str, Any], source: Path, work: Path) -> None:
    """Score the evaluation videos, unless that is done."""
    place = _place(way, work)
    if (place / "scores.npy").exists():
        return
    say(f"{way.peer}: scoring with {way.way}")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        target = Path(folder) / "scores.npy"
        with _running(way, "serve", source, work, _python(way.peer, work), 2) as (process, answers):
            found = _answer(process, answers, MOST_SECONDS)
            if "error" not in found:
                found = _order(process, answers, score=str(target))
        if "error" in found:
            row["error"] = found["error"]
            return
        target.replace(place / "scores.npy")


def _time_all(
    ways: list[Way], rows: dict[Way, dict[str, Any]], threads: int, source: Path, work: Path, *, quick: bool
) -> None:
    """Time all ways in interleaved rounds; every process stays alive until the end."""
    with contextlib.ExitStack() as stack:
        alive: dict[Way, tuple[subprocess.Popen[str], IO[str]]] = {}
        counts: dict[Way, int] = {}
        taken: dict[Way, list[int]] = {}
        for way in ways:
            if "error" in rows[way]:
                continue
            pair = stack.enter_context(_running(way, "serve", source, work, _python(way.peer, work), threads))
            loaded = _answer(*pair, MOST_SECONDS)
            warm = _order(*pair, time=10) if "error" not in loaded else loaded
            if "error" in warm:
                rows[way]["error"] = warm["error"]
                continue
            rows[way][f"load_ms_{threads}"] = loaded["load_ms"]
            alive[way], taken[way] = pair, []
            counts[way] = max(5, int(SECONDS * 1e9 / np.median(warm["nanoseconds"])))
        rounds = 2 if quick else ROUNDS
        for number in range(rounds):
            say(f"{threads} thread(s): round {number + 1} of {rounds}")
            order = list(alive)[:: -1 if number % 2 else 1]
            for way in order:
                found = _order(*alive[way], time=counts[way])
                if "error" in found:
                    rows[way]["error"] = found["error"]
                    del alive[way]
                    continue
                # The first quarter refills the caches.
                taken[way] += found["nanoseconds"][len(found["nanoseconds"]) // 4 :]
                rows[way][f"peak_memory_bytes_{threads}"] = found["peak_bytes"]
                time.sleep(0.02)
        for way in alive:
            p50, p90 = np.percentile(taken[way], (50, 90)) / 1e6
            rows[way][f"p50_ms_{threads}"], rows[way][f"p90_ms_{threads}"] = float(p50), float(p90)


def _add_accuracy(ways: list[Way], rows: dict[Way, dict[str, Any]], evaluation: Dataset, work: Path) -> None:
    """Add GAP@20, and its difference from the FP32 network with the interval."""
    labels = evaluation.labels(slice(None))
    resampled: dict[Way, Any] = {}
    for way in ways:
        path = _place(way, work) / "scores.npy"
        if path.exists():
            scores = np.load(path)
            rows[way]["gap_at_20"] = gap_at_20(scores, labels)
            resampled[way] = resampled_gap(outcomes(scores, labels, 0.5))
    reference = next((way for way in resampled if way.way.endswith("fp32")), None)
    for way in resampled:
        if reference is not None:
            rows[way]["gap_at_20_difference"] = rows[way]["gap_at_20"] - rows[reference]["gap_at_20"]
            rows[way]["interval"] = list(interval(resampled[way] - resampled[reference]))


def markdown(found: dict[str, Any]) -> str:
    """Return the table."""
    titles = ["tool", "way", "GAP@20", "to FP32 (95 %)", "MB", "p50, p90 ms, 1 thread", "p50, p90 ms, 2 threads"]
    titles += ["peak memory, MB", "load, ms", "export, s (peak, MB)", "installed, MB"]
    titles += [f"M instructions, {board}" for board in found["boards"]]
    titles += ["kernels", *([f"converts {found['also']['model']}"] if found["also"] else [])]
    lines = [
        f"| {' | '.join(titles)} |",
        f"|---|---|{'---:|' * (9 + len(found['boards']))}{'---|' * (1 + bool(found['also']))}",
    ]
    for row in found["rows"]:
        if "error" in row:
            lines.append(f"| {row['peer']} | {row['way']} | {row['error'].replace('|', '/')} {'|' * (len(titles) - 2)}")
            continue
        low, high = row["interval"]
        installed = f"{row['installed_bytes'] / 1e6:.0f}" if row["installed_bytes"] else ""
        cells = [
            row["peer"],
            row["way"],
            f"{row['gap_at_20']:.4f}",
            f"{signed(row['gap_at_20_difference'])} ({signed(low)} to {signed(high)})",
            f"{row['size_bytes'] / 1e6:.1f}" if row["size_bytes"] else "",
            *(f"{row[f'p50_ms_{threads}']:.2f}, {row[f'p90_ms_{threads}']:.2f}" for threads in (1, 2)),
            f"{row['peak_memory_bytes_1'] / 1e6:.0f}",
            f"{row['load_ms_1']:.0f}",
            f"{row['export_seconds']:.1f} ({row['export_peak_bytes'] / 1e6:.0f})",
            installed,
            *(_millions(row["instructions"][board]) for board in found["boards"]),
            row["kernels"],
            *([row["also"].replace("|", "/")[:80]] if found["also"] else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    network = found["network"]
    about = (
        f"{network['model']} ({network['preset']}, {network['params'] / 1e6:.1f}M), {found['videos']:,} YouTube-8M videos, "
        f"batch 1, all files interleaved in rounds. {made_by(found)} Videos are YouTube-8M's (Google LLC, CC BY 4.0)."
    )
    lines += ["", *paragraph(about)]
    return "\n".join(lines) + "\n"


def _millions(counts: dict[str, int] | None) -> str:
    return f"{counts['instructions'] / 1e6:.1f}" if counts else ""


if __name__ == "__main__":
    main()
