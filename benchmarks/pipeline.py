"""Measure the steps around a network: preparing, training, evaluating, starting; and how they grow with the data.

    python -m benchmarks.pipeline --work runs/pipeline --out benchmarks/results/pipeline

makes synthetic TFRecords and compares, in interleaved rounds: `edge-af data prepare` with a tf.data pipeline and with the
package `tfrecord`; `edge-af train` with a plain PyTorch loop on the same arrays; `edge-af --help` and `import edge_af` with
an empty Python. Then it runs prepare, train and eval on 1,000 videos and tenfold up to `--most`, and fits the exponents.
Writes OUT.json and OUT.md. Needs `pip install tfrecord` in an environment of its own, which it makes in `--work`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.verbs import edge_af, made_by, paragraph, record
from edge_af.files import write_atomic, write_json

VIDEOS = 20_000
ROUNDS, COLD_ROUNDS = 5, 3
START_ROUNDS = 7
EVAL_VIDEOS = 4_638

TF_DATA = """
import sys, numpy as np, tensorflow as tf
from pathlib import Path
files = sorted(map(str, Path(sys.argv[1]).glob("*.tfrecord")))
out, count = Path(sys.argv[2]), int(sys.argv[3])
spec = {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.RaggedFeature(tf.int64),
        "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32), "mean_audio": tf.io.FixedLenFeature([128], tf.float32)}
data = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE).batch(512)
data = data.map(lambda rows: tf.io.parse_example(rows, spec), num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
visual = np.lib.format.open_memmap(out / "visual.npy", "w+", np.float16, (count, 1024))
audio = np.lib.format.open_memmap(out / "audio.npy", "w+", np.float16, (count, 128))
labels, lengths, at = [], [], 0
for rows in data:
    n = len(rows["id"])
    visual[at:at + n], audio[at:at + n] = rows["mean_rgb"].numpy(), rows["mean_audio"].numpy()
    labels.append(rows["labels"].values.numpy().astype(np.uint16)); lengths.append(rows["labels"].row_lengths().numpy())
    at += n
np.save(out / "labels.npy", np.concatenate(labels)); np.save(out / "lengths.npy", np.concatenate(lengths))
visual.flush(); audio.flush()
assert at == count
"""
TFRECORD = """
import sys, numpy as np
from pathlib import Path
from tfrecord.reader import tfrecord_loader
files = sorted(Path(sys.argv[1]).glob("*.tfrecord"))
out, count = Path(sys.argv[2]), int(sys.argv[3])
spec = {"labels": "int", "mean_rgb": "float", "mean_audio": "float"}
visual = np.lib.format.open_memmap(out / "visual.npy", "w+", np.float16, (count, 1024))
audio = np.lib.format.open_memmap(out / "audio.npy", "w+", np.float16, (count, 128))
labels, at = [], 0
for file in files:
    for row in tfrecord_loader(str(file), None, spec):
        visual[at], audio[at] = row["mean_rgb"], row["mean_audio"]
        labels.append(row["labels"].astype(np.uint16)); at += 1
np.save(out / "labels.npy", np.concatenate(labels))
visual.flush(); audio.flush()
assert at == count
"""
PLAIN_LOOP = """
import sys, time, numpy as np, torch
from pathlib import Path
from edge_af.data.dataset import open_dataset
from edge_af.models.networks import build, initialize
from edge_af.models.presets import preset
from edge_af.models.sizes import training_flops
data = open_dataset(sys.argv[1], verify=False)
config = preset("attend-fusion", "small")
network = build(config, data.classes)
initialize(network, torch.full((data.classes,), 1e-3), torch.Generator().manual_seed(0))
optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
order = np.random.default_rng(0).permutation(data.videos)
rows = [order[at:at + 256] for at in range(0, data.videos - 255, 256)]
started = time.perf_counter()
for one in rows:
    features = data.features(one)
    logits = network(torch.from_numpy(features.visual), torch.from_numpy(features.audio))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.labels(one)).float())
    optimizer.zero_grad(); loss.backward(); optimizer.step()
print(256 * len(rows) / (time.perf_counter() - started))
"""


def run_script(python: Path | str, script: str, *words: object) -> tuple[float, int, str]:
    """Run a script in a process of its own; return its seconds, its peak memory in bytes, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(python), "-c", script, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a script ended with status {status}: {script.strip().splitlines()[0]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024, text


EDGE_AF = "import sys; from edge_af.__main__ import main; sys.argv[0] = 'edge-af'; main()"


def prepared(work: Path, tfrecords: Path, python: Path) -> list[dict[str, Any]]:
    """Compare three ways of turning TFRecords into arrays, with the files in the page cache and without."""
    ways: dict[str, tuple[Path | str, str]] = {
        "edge-af data prepare": (sys.executable, EDGE_AF),
        "tf.data": (sys.executable, TF_DATA),
        "tfrecord package": (python, TFRECORD),
    }
    warm: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    cold: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for number in range(ROUNDS + COLD_ROUNDS):
        taken = warm if number < ROUNDS else cold
        for name in list(ways)[:: -1 if number % 2 else 1]:
            if taken is cold:
                _forget(tfrecords)
            out = work / "prepared-once"
            shutil.rmtree(out, ignore_errors=True)
            interpreter, script = ways[name]
            if script == EDGE_AF:
                words: tuple[object, ...] = ("data", "prepare", tfrecords, "--out", out)
            else:
                out.mkdir()
                words = (tfrecords, out, VIDEOS)
            seconds, peak, _ = run_script(interpreter, script, *words)
            taken[name].append((seconds, peak))
    return [
        {
            "way": name,
            "videos_per_s": VIDEOS / median(seconds for seconds, _ in found),
            "cold_videos_per_s": VIDEOS / median(seconds for seconds, _ in cold[name]),
            "peak_memory_bytes": max(peak for _, peak in found),
        }
        for name, found in warm.items()
    ]


def _forget(folder: Path) -> None:
    """Drop the files of a folder from this machine's page cache."""
    for path in folder.rglob("*.tfrecord"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def trained(work: Path, data: Path) -> dict[str, Any]:
    """Compare training with a plain loop on the same data, one epoch each."""
    ours, plain, share = [], [], []
    for _ in range(3):
        out = work / "run-once"
        shutil.rmtree(out, ignore_errors=True)
        how = ("--epochs", 1, "--batch", 256, "--precision", "float32", "--held-out", 0.01)
        edge_af("train", "--model", "attend-fusion", "--preset", "small", *how, "--data", data, "--out", out)
        speed = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["speed"]
        ours.append(speed["videos_per_s"])
        share.append(speed["peak_share"])
        plain.append(float(run_script(sys.executable, PLAIN_LOOP, data)[2]))
    return {"videos_per_s": median(ours), "plain_videos_per_s": median(plain), "peak_share": median(share)}


def started() -> dict[str, float]:
    """Return the milliseconds of `edge-af --help`, `import edge_af` and an empty Python."""
    commands = {"edge-af --help": [*EDGE_AF_HELP], "import edge_af": ["-c", "import edge_af"], "python": ["-c", "pass"]}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(START_ROUNDS):
        for name, words in commands.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            taken[name].append(1e3 * (time.perf_counter() - begun))
    return {name: median(found) for name, found in taken.items()}


EDGE_AF_HELP = ("-m", "edge_af", "--help")


def grown(work: Path, most: int) -> list[dict[str, Any]]:
    """Run prepare, train and eval on ever more synthetic videos; return seconds and peak memory of each step."""
    rows = []
    run: Path | None = None
    videos = 1_000
    while videos <= most:
        folder = work / f"grown-{videos}"
        synth = ("--videos-train", videos, "--videos-eval", 1000, "--classes", 400)
        if not (folder / "tfrecords").exists():
            edge_af("data", "synth", folder / "tfrecords", *synth)
        row: dict[str, Any] = {"videos": videos}
        out = folder / "run"
        for path in (folder / "train", out):
            shutil.rmtree(path, ignore_errors=True)
        train = ("--model", "attend-fusion", "--preset", "small", "--epochs", 1, "--held-out", 0.01, "--threads", 2)
        steps: dict[str, Sequence[object]] = {
            "prepare": ("data", "prepare", folder / "tfrecords" / "train", "--out", folder / "train"),
            "train": ("train", *train, "--data", folder / "train", "--out", out),
            "eval": ("eval", run or out, "--data", folder / "train", "--threads", 2),
        }
        for name, words in steps.items():
            seconds, peak, _ = run_script(sys.executable, EDGE_AF, *words)
            row[name] = {"seconds": seconds, "peak_memory_bytes": peak}
        run = run or out
        rows.append(row)
        shutil.rmtree(folder / "tfrecords")
        shutil.rmtree(folder / "train")
        videos *= 10
    return rows


def exponent(rows: list[dict[str, Any]], step: str) -> float | None:
    """Fit seconds ~ videos^exponent to the two largest amounts."""
    if len(rows) < 2:
        return None
    (few, fast), (many, slow) = ((row["videos"], row[step]["seconds"]) for row in rows[-2:])
    return math.log(slow / fast) / math.log(many / few)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder for data, runs and an environment."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Writes OUT.json and OUT.md.")
@click.option("--most", default=1_000_000, show_default=True, help="Largest number of synthetic videos.")
def main(work: Path, out: Path, most: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    python = work / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "environment")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "tfrecord==1.14.6"], check=True)
    records = work / "tfrecords"
    if not records.exists():
        edge_af("data", "synth", records, "--videos-train", VIDEOS, "--videos-eval", EVAL_VIDEOS, "--classes", 3862)
    found: dict[str, Any] = {
        **record("pipeline"),
        "start_ms": started(),
        "prepare": prepared(work, records / "train", python),
    }
    data = work / "train"
    if not data.exists():
        edge_af("data", "prepare", records / "train", "--out", data)
        edge_af("data", "prepare", records / "eval", "--out", work / "eval")
    found["train"] = trained(work, data)
    seconds, peak, _ = run_script(
        sys.executable, EDGE_AF, "eval", work / "run-once", "--data", work / "eval", "--threads", 2
    )
    found["eval"] = {"videos": EVAL_VIDEOS, "seconds": seconds, "peak_memory_bytes": peak}
    found["grown"] = grown(work, most)
    write_json(out.with_suffix(".json"), found)
    write_atomic(out.with_suffix(".md"), markdown(found))


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = ["| preparing 20,000 videos | videos per second | cold | peak memory, MB |", "|---|---:|---:|---:|"]
    for row in found["prepare"]:
        cells = (
            f"{row['videos_per_s']:,.0f}",
            f"{row['cold_videos_per_s']:,.0f}",
            f"{row['peak_memory_bytes'] / 1e6:,.0f}",
        )
        lines.append(f"| {row['way']} | {' | '.join(cells)} |")
    train, starts, scored = found["train"], found["start_ms"], found["eval"]
    lines += [
        "",
        f"Training `small` in float32: {train['videos_per_s']:,.0f} videos per second, {train['peak_share']:.0%} of the "
        f"matrix-multiply limit; a plain loop: {train['plain_videos_per_s']:,.0f}.",
        f"Evaluating {scored['videos']:,} videos: {scored['seconds']:.1f} s, {scored['peak_memory_bytes'] / 1e6:.0f} MB.",
        "Start (median of 7): " + ", ".join(f"`{name}` {value:.0f} ms" for name, value in starts.items()) + ".",
        "",
        "| videos | prepare, s (MB) | train, one epoch, s (MB) | eval, s (MB) |",
        "|---:|---:|---:|---:|",
    ]
    for row in found["grown"]:
        cells = [
            f"{row[s]['seconds']:.1f} ({row[s]['peak_memory_bytes'] / 1e6:,.0f})" for s in ("prepare", "train", "eval")
        ]
        lines.append(f"| {row['videos']:,} | {' | '.join(cells)} |")
    fitted = {step: exponent(found["grown"], step) for step in ("prepare", "train", "eval")}
    exponents = ", ".join(f"{step} {value:.2f}" for step, value in fitted.items() if value is not None)
    lines += ["", *paragraph(f"Exponents between the last two rows: {exponents}.")]
    lines += ["", *paragraph(f"Synthetic videos. {made_by(found)}")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
