"""Measure what a second of video costs, and what fewer frames change.

    python -m benchmarks.video --work runs/video --out benchmarks/results/video

makes a 720p clip and the clips of `edge-af data clips`, trains a small network on the latter, and writes OUT.json and OUT.md:
processor time of each stage, the real-time factor on one thread, and the labels' agreement at lower frame rates. With
`--board`, it also models the stages on emulated boards (`edge-af bench --with-features`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.verbs import edge_af, made_by, paragraph, record
from edge_af.emulation.boards import BOARDS
from edge_af.files import write_atomic, write_json
from edge_af.machine.memory import read_memory
from edge_af.records.results import Results, read_results
from edge_af.report.extraction import extraction_rows, extraction_text

SIZE, FRAME_RATE, SECONDS, BIT_RATE = (1280, 720), 30, 60, 3_000_000
EVERY = (1.0, 2.0, 5.0, 10.0)
ROUNDS = 5
CLIP_SECONDS = 20


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for the clips and the runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Writes OUT.json and OUT.md.")
@click.option("--clip", "extra", type=click.Path(path_type=Path), multiple=True, help="A clip to measure too.")
@click.option(
    "--board", "boards", multiple=True, type=click.Choice(list(BOARDS)), help="Model this board too; repeatable."
)
def main(work: Path, out: Path, extra: tuple[Path, ...], boards: tuple[str, ...]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    made = work / "720p.mp4"
    if not made.exists():
        _make(made)
    artifact = _artifact(work)
    costs = [
        _median([_measured(clip, every, artifact) for _ in range(ROUNDS)]) for clip in (made, *extra) for every in EVERY
    ]
    benched = [_benched(work, artifact, made, board) for board in (None, *boards)]
    found = {
        **record("video"),
        "costs": costs,
        "agreement": [_agreement(work, artifact, every) for every in EVERY],
        "machines": extraction_rows(benched),
        "machines_text": extraction_text(benched),
        "extraction": [asdict(results.extraction) for results in benched if results.extraction is not None],
    }
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), markdown(found))


def _make(path: Path) -> None:
    """Write a clip of moving shapes and noise in H.264, with sound."""
    import av
    import numpy as np

    graph = av.filter.Graph()
    source = graph.add("testsrc2", f"size={SIZE[0]}x{SIZE[1]}:rate={FRAME_RATE}")
    noise, sink = graph.add("noise", "alls=4:allf=t"), graph.add("buffersink")
    source.link_to(noise)
    noise.link_to(sink)
    graph.configure()
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=FRAME_RATE), container.add_stream("aac", rate=44_100)
        (video.width, video.height), video.pix_fmt, video.bit_rate = SIZE, "yuv420p", BIT_RATE
        for _ in range(FRAME_RATE * SECONDS):
            frame = graph.pull().reformat(format="yuv420p")  # type: ignore[attr-defined]
            frame.pts = None
            container.mux(video.encode(frame))
        samples = np.random.default_rng(0).normal(0, 0.1, (1, 44_100 * SECONDS)).astype(np.float32)
        block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        block.sample_rate, block.pts = 44_100, 0
        container.mux([*video.encode(None), *audio.encode(block), *audio.encode(None)])


def _artifact(work: Path) -> Path:
    """Return the INT8 file of a small network, trained on clips at one frame per second."""
    for name, clips, seed in (("train", 8, 0), ("eval", 4, 1)):
        if not (work / "clips" / name).exists():
            edge_af("data", "clips", work / "clips" / name, "--clips", clips, "--seconds", CLIP_SECONDS, "--seed", seed)
    train = work / "prepared"
    if not train.exists():
        labels = ("--labels", work / "clips" / "train" / "labels.csv")
        edge_af("features", work / "clips" / "train", *labels, "--out", train)
    how = ("--epochs", 150, "--batch", 16, "--lr", 3e-3, "--held-out", 0.1)
    edge_af(
        "train", "--model", "attend-fusion", "--preset", "1m", *how, "--data", train, "--out", work / "run", "--resume"
    )
    out = work / "artifacts"
    if not out.exists():
        edge_af("export", work / "run", "--int8", "--calibration-data", train, "--out", out)
    return out / "attend-fusion-int8.tflite"


def _benched(work: Path, artifact: Path, clip: Path, board: str | None) -> Results:
    """Bench the file and the extraction on this machine or on an emulated board."""
    out = work / f"cost-{board or 'here'}.json"
    target = ("--target", f"emulated:{board}") if board is not None else ()
    edge_af("bench", artifact, *target, "--with-features", clip, "--out", out, "--fresh")
    return read_results(out)


def _measured(clip: Path, every: float, artifact: Path) -> dict[str, Any]:
    """Label a clip in a process of its own with one thread."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.video", "--measure", str(clip), str(every), str(artifact)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(clip: str, every: float, artifact: str) -> dict[str, Any]:
    """Return the cost of labeling a clip once: milliseconds of processor time per second of video, by stage."""
    import edge_af

    network = edge_af.load(artifact)
    started, spent = time.perf_counter(), time.process_time()
    stream = edge_af.VideoStream(clip, network, every=every)
    labels = list(stream)
    wall, spent = time.perf_counter() - started, time.process_time() - spent
    memory = read_memory()
    seconds, cost = stream.extraction.decoded.seconds, stream.extraction.cost
    stages = {name: 1e3 * value / seconds for name, value in asdict(cost).items()}
    return {
        "clip": Path(clip).name,
        "every": every,
        "seconds": seconds,
        "stages_ms": {**stages, "rest": 1e3 * spent / seconds - sum(stages.values())},
        "real_time_factor": seconds / wall,
        "labels": len(labels),
        "peak_memory_bytes": memory.peak if memory is not None else None,
    }


def _median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the round with the median real-time factor."""
    return sorted(rounds, key=lambda one: one["real_time_factor"])[len(rounds) // 2]


def _agreement(work: Path, artifact: Path, every: float) -> dict[str, Any]:
    """Compare the labels of the evaluation clips with those at one frame per second."""
    import edge_af

    network, clips = edge_af.load(artifact), sorted((work / "clips" / "eval").glob("*.mp4"))
    same, right, moved = 0, 0, 0.0
    for clip in clips:
        full, fewer = (
            {one.name: one.score for one in list(edge_af.VideoStream(clip, network, every=rate, top=6))[-1].predictions}
            for rate in (1.0, every)
        )
        same += next(iter(full)) == next(iter(fewer))
        right += next(iter(fewer)) == clip.name.partition("-")[0]
        moved = max(moved, *(abs(full[name] - fewer[name]) for name in full))
    return {
        "every": every,
        "clips": len(clips),
        "same_first_label": same / len(clips),
        "right_first_label": right / len(clips),
        "largest_score_difference": moved,
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "| clip | one frame every | decode | visual | audio | rest | real-time factor | peak memory, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["costs"]:
        stages = " | ".join(f"{row['stages_ms'][name]:.1f}" for name in ("decode", "visual", "audio", "rest"))
        memory = f"{row['peak_memory_bytes'] / 1e6:.0f}" if row["peak_memory_bytes"] is not None else ""
        lines.append(f"| {row['clip']} | {row['every']:g} s | {stages} | {row['real_time_factor']:.1f} | {memory} |")
    lines += [
        "",
        *paragraph(
            "Stages: milliseconds of processor time per second of video, one thread. Rest: opening, the classifier, and Python."
        ),
        "",
        "| one frame every | same first label | right first label | largest difference of a score |",
        "|---:|---:|---:|---:|",
    ]
    for row in found["agreement"]:
        lines.append(
            f"| {row['every']:g} s | {row['same_first_label']:.0%} | {row['right_first_label']:.0%} "
            f"| {row['largest_score_difference']:.3f} |"
        )
    lines += [
        "",
        "| machine | decode | visual | audio | labels | real time |",
        "|---|---:|---:|---:|---:|---:|",
        *(f"| {' | '.join(cells)} |" for cells in found["machines"]),
        "",
        *paragraph(found["machines_text"]),
    ]
    clips = f"{found['agreement'][0]['clips']} clips of {CLIP_SECONDS} s, compared with one frame every second."
    lines += ["", *paragraph(f"{clips} {made_by(found)}")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        sys.stdout.write(json.dumps(measure(sys.argv[2], float(sys.argv[3]), sys.argv[4])) + "\n")
    else:
        main()
