"""Damage: a random change to one input file of a verb.

Each verb runs in a fork of a process that has already imported everything, so thousands of cases take minutes. If edge-af keeps
a checksum of the file, the verb has to refuse the file or produce the same output as before.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ground import Ground, end_session
from outcome import Case, Ended, judged

TIMEOUT = 120.0


@dataclass(frozen=True)
class Subject:
    """Files to damage, and the command that reads them."""

    name: str
    file: str
    """Path in the ground; `*` matches several files."""
    command: tuple[str, ...]
    """Arguments of edge-af, run in a copy of the ground. `{file}` is the path of the damaged file there."""
    is_vouched: bool = False
    """True if edge-af keeps a checksum of the file."""
    share: float = 1.0
    """Weight in the random choice; lower for slow commands."""
    alone: bool = False
    """True to take the file out of its folder, away from its manifest."""


PREDICT = ("predict", "{file}", "eval", "--videos", "2", "--json")
SUBJECTS = (
    Subject("TFRecord", "raw/eval/*.tfrecord", ("data", "prepare", "{file}", "--classes", "24", "--out", "out"), True),
    Subject("TFRecord with --skip-bad", "raw/eval/*.tfrecord",
            ("data", "prepare", "{file}", "--classes", "24", "--skip-bad", "--out", "out")),
    Subject("TFRecord in data info", "raw/eval/*.tfrecord", ("data", "info", "{file}")),
    Subject("vocabulary", "vocabulary.csv",
            ("data", "prepare", "raw/eval", "--vocabulary", "{file}", "--out", "out")),
    Subject("dataset's index", "eval/index.json", ("data", "sample", "eval", "--videos", "5", "--out", "out")),
    Subject("dataset's arrays", "eval/*.npy", ("data", "sample", "eval", "--videos", "5", "--out", "out"), True),
    Subject("run.json", "run/run.json", ("predict", "run", "eval", "--videos", "2", "--json")),
    Subject("run's weights", "run/*.safetensors", ("predict", "run", "eval", "--videos", "2", "--json"), True),
    Subject("run's metrics", "run/metrics.jsonl", ("predict", "run", "eval", "--videos", "2", "--json")),
    Subject("checkpoint", "unfinished/checkpoint.safetensors",
            ("train", "--model", "fc-late-fusion", "--preset", "linear", "--data", "train", "--epochs", "400",
             "--checkpoint-steps", "5", "--out", "unfinished", "--resume"), share=0.05),
    Subject("manifest", "artifacts/manifest.json", ("bundle", "artifacts", "--out", "out.zip")),
    Subject("manifest of a loaded file", "artifacts/manifest.json",
            ("predict", "artifacts/fc-late-fusion-int8.onnx", "eval", "--videos", "2", "--json")),
    Subject("ONNX with manifest", "artifacts/*.onnx", PREDICT, True),
    Subject("TFLite with manifest", "artifacts/*.tflite", PREDICT, True),
    Subject("ONNX without manifest", "artifacts/*.onnx", PREDICT, share=0.3, alone=True),
    Subject("TFLite without manifest", "artifacts/*.tflite", PREDICT, share=0.3, alone=True),
    Subject("results", "results.json", ("report", "{file}", "--html", "out.html", "--markdown", "out.md", "--json"), share=0.3),
    Subject("history", "history.jsonl", ("report", "--history", "{file}", "--html", "out.html"), share=0.3),
    Subject("bundle", "bundle.zip", ("verify", "{file}", "--signers", "signers", "--out", "out"), True),
    Subject("signers", "signers", ("verify", "bundle.zip", "--signers", "{file}")),
    Subject("suite", "suite.yaml", ("bench", "artifacts", "--suite", "{file}"), share=0.05),
    Subject("recipe", "recipe.yaml", ("export", "run", "--recipe", "{file}", "--format", "onnx", "--out", "out"), share=0.1),
    Subject("ranges", "artifacts/ranges.json",
            ("export", "run", "--recipe", "int8-static", "--ranges", "{file}", "--format", "onnx", "--out", "out"), share=0.1),
    Subject("limits", "budget.yaml",
            ("compare", "artifacts/fc-late-fusion-int8.onnx", "artifacts/fc-late-fusion-int8.onnx",
             "--budget-file", "{file}"), share=0.2),
    Subject("targets", "targets.yaml", ("bench", "artifacts", "--target-file", "{file}"), share=0.05),
)  # fmt: skip
"""Every kind of input file."""

TOKENS = [
    *(b"-1", b"0", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b'""', b"[]", b"{}", b"9" * 400, b"1e-400", b"0x7f"),
    *(b'"\\ud800"', b'"\\u0000"', b"[" * 200, b'{"a":' * 3000, b"2026-01-01", b'"' + b"a" * 100_000 + b'"', b"\xff\xfe"),
    *(b"!!python/object:os.system", b"&a [*a]", b"<<: *a", b"1.5", b"---", b"\x1b]0;x\x07", b'"../../etc"', b"/dev/zero"),
]  # fmt: skip
"""Replacements for a word of a text."""


def damaged(data: bytes, random: random.Random, *, text: bool) -> tuple[bytes, str]:
    """Return a randomly changed copy, and the name of the change."""
    size = len(data)
    at = random.randrange(size)
    length = min(size - at, random.choice((1, 2, 8, 64, 512, 4096)))
    noise = random.randbytes(length)
    whole = bytearray(data)
    ways = ["flip", "flip", "flip", "set", "cut short", "cut out", "repeat", "insert", "zero", "overwrite", "append"]
    way = random.choice(ways + ["word"] * 12 if text else [*ways, "nothing left", "noise alone"])
    if way == "flip":
        for _ in range(random.choice((1, 1, 1, 4, 32))):
            whole[random.randrange(size)] ^= 1 << random.randrange(8)
    elif way == "set":
        whole[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif way == "cut short":
        del whole[at:]
    elif way == "cut out":
        del whole[at : at + length]
    elif way == "repeat":
        whole[at:at] = whole[at : at + length] * random.choice((1, 2, 50))
    elif way == "insert":
        whole[at:at] = noise
    elif way == "zero":
        whole[at : at + length] = bytes(length)
    elif way == "overwrite":
        whole[at : at + length] = noise
    elif way == "append":
        whole += noise
    elif way == "nothing left":
        whole.clear()
    elif way == "noise alone":
        whole[:] = random.randbytes(random.choice((1, 100, 10_000)))
    else:
        words = words_of(data)
        start, end = random.choice(words)
        whole[start:end] = random.choice([*TOKENS, *(data[slice(*random.choice(words))] for _ in range(8))])
    return bytes(whole), way


def words_of(data: bytes) -> list[tuple[int, int]]:
    """Return the (start, end) of each word, number, string and bracket of a text."""
    import re

    return [match.span() for match in re.finditer(rb'"[^"\n]*"|[\w.+-]+|[\[\]{}:,]', data)]


@contextlib.contextmanager
def copied(ground: Ground, subject: Subject, name: str, data: bytes) -> Iterator[tuple[Path, str]]:
    """Copy what the command needs, with one file replaced by `data`; yield the folder and the file's path in it."""
    with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
        place = Path(scratch)
        kept = {word.split("/")[0] for word in subject.command} & {path.name for path in ground.folder.iterdir()}
        top = name.split("/")[0]
        for one in kept - {top}:
            (place / one).symlink_to(ground / one)
        if subject.alone:
            file = place / Path(name).name
        else:
            file = place / name
            if "/" in name:
                shutil.copytree(ground / top, place / top, copy_function=os.link)
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        yield place, str(file.relative_to(place))


def forked(command: list[str], place: Path) -> Ended:
    """Run `edge-af` with these arguments in a fork of this process."""
    said = place / "said"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(place)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        sys.argv = ["edge-af", *command]
        status = 99
        try:
            from edge_af.cli import main

            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + TIMEOUT
    pause = 0.002
    while True:
        found, raw = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > deadline:
            end_session(child)
            os.waitpid(child, 0)
            return Ended(None, said.read_bytes())
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    status = os.waitstatus_to_exitcode(raw)
    return Ended(status, said.read_bytes() if said.exists() else b"")


def preload() -> None:
    """Import everything that the verbs import."""
    import importlib

    from edge_af.cli import VERBS

    libraries = ("torch", "onnx", "onnxruntime", "yaml", "safetensors.torch", "tensorflow", "vl_convert")
    rooms = ("bench.session", "bundle", "compare.run", "data.prepare", "export.pipeline", "report.page", "report.specs",
             "runtime.ort", "runtime.pytorch", "train.loop", *(f"cli.{verb}" for verb in VERBS))  # fmt: skip
    for name in (*libraries, *(f"edge_af.{room}" for room in rooms)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def files_of(ground: Ground, subject: Subject) -> list[str]:
    """Return the paths in the ground that match a subject."""
    return sorted(path.relative_to(ground.folder).as_posix() for path in ground.folder.glob(subject.file))


def once(ground: Ground, subject: Subject, name: str, data: bytes) -> tuple[Ended, dict[str, bytes]]:
    """Run the command with the file replaced by `data`; return how it ended and the contents of its outputs."""
    with copied(ground, subject, name, data) as (place, file):
        ended = forked([word.replace("{file}", file) for word in subject.command], place)
        made = {}
        for path in [place / "out", *place.glob("out/**/*"), *place.glob("out.*")]:
            if path.is_file():
                made[str(path.relative_to(place))] = path.read_bytes()
        return ended, made


def tortured(ground: Ground, numbers: range) -> Iterator[Case]:
    """Run the cases of damage with these numbers."""
    preload()
    whole: dict[tuple[str, str], tuple[Ended, dict[str, bytes]]] = {}
    for subject in SUBJECTS:
        assert files_of(ground, subject), f"{subject.file}: no such file in the ground"
    weights = [subject.share for subject in SUBJECTS]
    for number in numbers:
        draw = random.Random(number)
        subject = draw.choices(SUBJECTS, weights)[0]
        name = draw.choice(files_of(ground, subject))
        data = (ground / name).read_bytes()
        changed, way = damaged(data, draw, text=Path(name).suffix in (".json", ".yaml", ".csv", ".jsonl"))
        ended, made = once(ground, subject, name, changed)
        wrong = None
        if subject.is_vouched and ended.status == 0 and changed != data:
            if (subject.name, name) not in whole:
                whole[subject.name, name] = once(ground, subject, name, data)
            # Harmless changes exist, such as an unused flag or bytes after the end: the output is the same.
            if made != whole[subject.name, name][1] or ended.said != whole[subject.name, name][0].said:
                wrong = "accepted, with a different output"
        yield judged("damage", subject.name, ended, f"case {number}: {name}, {way}", wrong=wrong)
