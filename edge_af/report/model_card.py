"""Write the model card of an export folder, and put measured figures into it.

The card is Markdown with YAML front matter, as model hubs read it. Values are escaped by default: a template's value is
Markdown only if it is `Markdown`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge_af.artifacts import CARD, CARD_END, CARD_MARK, FORMATS, Manifest, read_manifest
from edge_af.data import YOUTUBE8M, Widths
from edge_af.errors import EdgeAfError
from edge_af.files import package_data, write_atomic
from edge_af.machine.device import project_commit
from edge_af.models.run import HeldOutAccuracy, Run
from edge_af.records.results import Results
from edge_af.report.columns import F1, GAP, MEMORY, P50, P90, signed
from edge_af.report.counted import MODELED, counted_cells, is_counted
from edge_af.report.notes import caveats, measured_text
from edge_af.report.rows import MODEL_NAMES, Line, compare, device_titles, gap_interval, gap_to_fp32, has_batches
from edge_af.report.tables import escape, printable, table_lines

TASK = "video-classification"
"""Identifier of the task on model hubs. The nearest one: no task is named for features of videos."""
NAMED_CLASSES = 5
"""Number of class names in the card; the manifest has all."""
NOT_MEASURED = """\
No figure has been measured yet. `edge-af bench FOLDER --data DATA --out results.json` measures
accuracy, latency and memory, and `edge-af report results.json --model-card FOLDER` puts them here."""

EXPLAINED = """\
Accuracy is that of the exported files. Change from FP32: of GAP@20 against the FP32 file in the
same runtime, in brackets the 95 % interval."""


class Markdown(str):
    """Text that is already Markdown."""


def model_card(
    manifest: Manifest, run: Run, license: str | None = None, rounded_on: tuple[str, int] | None = None
) -> str:
    """Return the card of a new export. The same export always gives the same card.

    Args:
        manifest: the export's manifest.
        run: the exported run.
        license: identifier of the weights' license; None to say that it is not stated.
        rounded_on: name and number of the calibration videos whose layer inputs chose the weights' rounding.
    """
    environment = Environment(
        loader=FileSystemLoader(package_data("report", "templates")),
        autoescape=False,
        finalize=_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    network = MODEL_NAMES.get(manifest.model, manifest.model)
    names = [*manifest.class_names[:NAMED_CLASSES], *(["…"] if len(manifest.class_names) > NAMED_CLASSES else [])]
    # INT8 is the usual choice, as for `edge_af.load`; a file for any processor runs everywhere.
    example = min(manifest.files, key=lambda file: (file.precision != "int8", file.cpu is not None)).path
    packages = [f"{name} {version}" for name, version in manifest.versions.items() if name != "edge-af"]
    return environment.get_template("model_card.md").render(
        front=Markdown(_yaml(_front_matter(manifest, run.held_out, license))),
        title=f"{network} {manifest.preset}",
        network=network,
        manifest=manifest,
        license=license,
        first_classes=", ".join(names),
        visual=run.config.features.visual,
        audio=run.config.features.audio,
        is_youtube8m=run.config.features == YOUTUBE8M,
        values=_values(manifest, run.config.features),
        formats=FORMATS,
        number=lambda value: f"{value:,}",
        share=lambda value: "–" if value is None else f"{value:.1%}",
        difference=lambda value: "–" if value is None else f"{value:.1e}",
        integer_io=any(file.io == "int8" for file in manifest.files),
        gated=[file for file in manifest.files if file.gate is not None],
        held_out=run.held_out,
        measured=Markdown(_between_marks(NOT_MEASURED)),
        training_data=_training_data(manifest),
        calibration=_calibration(manifest, rounded_on),
        processors=" and ".join(dict.fromkeys(file.cpu for file in manifest.files if file.cpu)),
        python_path=Markdown(json.dumps(printable(example), ensure_ascii=False)),
        shell_path=Markdown(shlex.quote(printable(example))),
        commit=project_commit(),
        packages=", ".join(packages),
        weights_sha256=run.weights_sha256,
    )


def measured_card(folder: Path, many: Sequence[Results]) -> str:
    """Return the folder's card with the figures of all rows that measured one of its files, by SHA-256.

    Everything outside the two marks stays as it is.

    Raises:
        EdgeAfError: the folder is not an export, its card has no place for the figures, or no row measured its files.
    """
    manifest, path = read_manifest(folder), folder / CARD
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise EdgeAfError(f"{path}: cannot read this model card ({error.strerror}). Export again.") from None
    # Whole lines only: a name in the front matter may contain a mark.
    parts = re.split(rf"^({re.escape(CARD_MARK)}|{re.escape(CARD_END)})(?=\r?$)", text, flags=re.M)
    if parts[1::2] != [CARD_MARK, CARD_END]:
        raise EdgeAfError(
            f"{path}: has no place for measured figures. Add the lines {CARD_MARK} and {CARD_END}, once each, or export "
            "again."
        )
    paths = {file.sha256: file.path for file in manifest.files}
    used = [results for results in many if any(row.sha256 in paths for row in results.rows)]
    if not used:
        raise EdgeAfError(
            f"{folder}: no row of these results measured one of its files, by SHA-256. Bench this folder: "
            f"edge-af bench {folder}"
        )
    return parts[0] + _between_marks(_figures(used, paths)) + parts[4]


def write_measured_cards(folders: Sequence[Path], many: Sequence[Results]) -> None:
    """Put the figures of `many` into the cards of export folders; see `measured_card`. Write none if one is at fault."""
    cards = {folder: measured_card(folder, many) for folder in folders}
    for folder, text in cards.items():
        write_atomic(folder / CARD, text.encode(errors="surrogateescape"))


def _markdown(value: object) -> str:
    """Escape a value of the template for Markdown."""
    return value if isinstance(value, Markdown) else escape(printable(str(value)))


def _yaml(value: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _between_marks(text: str) -> str:
    return f"{CARD_MARK}\n\n{text}\n\n{CARD_END}"


def _front_matter(manifest: Manifest, held_out: HeldOutAccuracy | None, license: str | None) -> dict[str, Any]:
    """Return the card's metadata, in the form of the Hugging Face Hub."""
    kinds = [*(file.format for file in manifest.files), *(file.precision for file in manifest.files)]
    data = printable((manifest.training_data.name if manifest.training_data is not None else None) or "")
    front: dict[str, Any] = {
        **({"license": license} if license else {"license": "other", "license_name": "not-stated"}),
        "library_name": "edge-af",
        "pipeline_tag": TASK,
        "tags": list(dict.fromkeys([manifest.model, "youtube-8m", "audio-visual", *kinds])),
        **({"datasets": [_identifier(data)]} if data else {}),
        "metrics": ["gap_at_20", "f1"],
    }
    if held_out is not None:
        threshold = f"{held_out.f1_threshold:.4f}"
        result = {
            "task": {"type": TASK, "name": "Video classification"},
            "dataset": {
                "name": f"{data or 'training data'}, held-out training videos",
                "type": _identifier(data),
                "split": "held-out",
            },
            "metrics": [
                {"type": "gap_at_20", "value": held_out.gap_at_20, "name": "GAP@20, in PyTorch"},
                {"type": "f1", "value": held_out.f1_micro, "name": f"F1, micro-averaged, at {threshold}, in PyTorch"},
            ],
        }
        front["model-index"] = [{"name": printable(f"{manifest.model}-{manifest.preset}"), "results": [result]}]
    return front


def _identifier(name: str) -> str:
    """Return a name with the characters of a hub's identifiers."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:96] or "unnamed"


def _values(manifest: Manifest, widths: Widths) -> str:
    """Describe the range of the features."""
    largest = manifest.training_data.largest if manifest.training_data is not None else None
    if widths == YOUTUBE8M and (largest is None or largest < 2.02):
        return "−2 to 2.01"
    return "any" if largest is None else f"up to ±{largest:.3g} in the training data"


def _training_data(manifest: Manifest) -> str:
    data = manifest.training_data
    if data is None or data.name is None:
        return "not recorded"
    return data.name + (f", {data.videos:,} videos" if data.videos is not None else "")


def _calibration(manifest: Manifest, rounded_on: tuple[str, int] | None) -> str:
    found, parts = manifest.calibration, []
    if found is not None:
        parts.append(f"{found.data}, {found.videos:,} videos, for ranges by {found.method}")
    if rounded_on is not None:
        parts.append(f"{rounded_on[0]}, {rounded_on[1]:,} videos, for the rounding of weights")
    return "; ".join(parts) or "none"


def _figures(many: Sequence[Results], paths: dict[str, str]) -> str:
    """Return the table of the rows that measured a file, named by SHA-256 in `paths`, and how they were measured."""
    lines = [line for line in compare(many) if line.row.sha256 in paths]
    batches, counted = has_batches(lines), is_counted(lines)
    columns = [(GAP, "GAP@20"), (F1, "F1"), (P50, "p50, ms"), (P90, "p90, ms"), (MEMORY, "peak memory, MB")]
    head = ["file", "device", "runtime", "threads", *(["batch"] if batches else [])]
    for column, title in columns:
        head += [title, "change from FP32"] if column is GAP else [title]
    head += [f"{MODELED.lower()}, ms"] if counted else []
    rows = [head]
    for line in lines:
        row = line.row
        names = [paths[row.sha256 or ""], line.device, line.runtime]
        cells = [*(escape(printable(name)) for name in names), str(row.threads), *([str(row.batch)] if batches else [])]
        for column, _ in columns:
            cells.append(column.text(row) or "–")
            cells += [_change(line)] if column is GAP else []
        rows.append([*cells, *([counted_cells(line)[0]] if counted else [])])
    notes = [*caveats(many), *(f"{paths[line.row.sha256 or '']}: {line.problem}" for line in lines if line.problem)]
    notes = [escape(printable(note)) for note in notes]
    notes += [
        printable(measured_text(results, title)) for results, title in zip(many, device_titles(many), strict=True)
    ]
    explained = [
        EXPLAINED,
        *(["A modeled latency is computed from counted instructions, not measured."] if counted else []),
    ]
    return "\n".join([*table_lines(rows, range(3)), "", *explained, "", *(f"* {note}" for note in notes)])


def _change(line: Line) -> str:
    change = gap_to_fp32(line)
    return "–" if change is None else f"{signed(change)} {gap_interval(line)}".strip()
