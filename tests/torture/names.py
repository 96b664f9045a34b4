"""Names: files and folders with hostile names.

Each verb works or says why not, and prints no control characters and no commands to a CI system.
"""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from damage import forked, preload
from ground import Ground
from outcome import Case, judged

PIECES = [
    *(b"\xe9", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b"\r", b"\t", b"\x07", b"\x1b[31m", b"\x1b]0;x\x07", b"\x7f", b"\x9b2J"),
    *(piece.encode() for piece in ("\u202e", "\u2066", "\u200b", "\ufeff", "\U0001f600", "e\u0301")),
    *(b"::stop-commands::x", b"::error::", b"##vso[task]", b"%0A", b"%s", b"{}", b"$(touch x)", b"`touch x`", b";", b"&", b"|"),
    *(b"'", b'"', b"\\", b"*", b"?", b"[a]", b"~", b" ", b"-", b"--out", b"-rf", b".", b"..", b"#", b"=", b",", b":"),
    *(b"<img src=x onerror=alert(1)>", b"|a|b|", b"[x](y)", b"CON", b"nul.txt", b".onnx", b".tflite", b".json", b"n" * 60),
]  # fmt: skip
FIRST = [b"\n::error::b", b"\x1b]0;x\x07", "a\u202egpj".encode(), b"caf\xe9", b"-rf", b"n" * 240, b" ", b"..."]
COMMANDS = (b"::error title=", b"::warning title=", b"::notice title=")


def hostile(number: int) -> str:
    """Return the name of a case, decoded as Python decodes file names: first those of `FIRST`, then random ones."""
    if number < len(FIRST):
        return os.fsdecode(FIRST[number])
    draw, name = random.Random(number), b""
    while not name.strip(b".") or b"/" in name:
        name = b"".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 6)))[:240]
    return os.fsdecode(name)


def tortured(ground: Ground, numbers: range) -> Iterator[Case]:
    """Run the verbs that read and write files with the names of these numbers."""
    preload()
    os.environ["GITHUB_ACTIONS"] = "true"
    for number in numbers:
        yield from _through(ground, hostile(number), number)


def _through(ground: Ground, name: str, number: int) -> Iterator[Case]:
    model, data, results = f"./{name}.onnx", f"./d{name}", f"./{name}.json"
    steps = (
        ("predict", ("predict", model, "eval", "--videos", "2")),
        ("eval", ("eval", model, "--data", data)),
        ("data info", ("data", "info", data)),
        ("data prepare", ("data", "prepare", f"./r{name}", "--classes", "24", "--out", f"./p{name}")),
        ("data sample", ("data", "sample", data, "--videos", "5", "--out", f"./{name}")),
        ("bundle", ("bundle", f"./a{name}", "--out", f"./b{name}")),
        ("verify", ("verify", f"./b{name}", "--out", f"./v{name}")),
        ("report", ("report", results, "--html", f"./h{name}", "--markdown", f"./m{name}")),
        ("compare", ("compare", model, model, "--junit", f"./j{name}", "--history", f"./l{name}",
                     "--markdown", f"./c{name}")),
        ("unknown command", (name,)),
        ("missing path", ("report", f"./missing{name}")),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tortured-") as scratch:
        place = Path(scratch)
        try:
            for target, source in (
                (model, "artifacts/fc-late-fusion-int8.onnx"),
                (data, "eval"),
                (f"r{name}", "raw/eval"),
                (f"a{name}", "artifacts"),
                (results, "results.json"),
                ("eval", "eval"),
            ):
                (place / target).symlink_to(ground / source)
        except OSError as error:
            yield Case("names", "impossible name", "skipped", None, f"{name!r}: {error.strerror}")
            return
        os.environ["GITHUB_STEP_SUMMARY"] = str(place / "summary.md")
        for what, arguments in steps:
            (place / "said").unlink(missing_ok=True)
            ended = forked(list(arguments), place)
            yield judged("names", what, ended, f"case {number}: {name!r}", wrong=_shown(ended.said))
        if (place / "x").exists():
            yield Case("names", "command in a name", "executed", "executed", f"case {number}: {name!r}")


def _shown(said: bytes) -> str | None:
    """Describe what a terminal or a CI system would obey in an output; None: nothing."""
    text = said.decode(errors="replace")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[[0-9;]*m)", text):
        return "prints a control character"
    if re.search("[\u202a-\u202e\u2066-\u2069]", text):
        return "prints a change of text direction"
    commands = [line for line in said.splitlines() if line.lstrip().startswith(b"::")]
    if any(not line.startswith(COMMANDS) for line in commands) or re.search(rb"##\w*\[", said):
        return "prints a command to the CI system"
    return None
