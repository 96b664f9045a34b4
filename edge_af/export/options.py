"""The options of `edge-af export`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_af.artifacts import FORMATS
from edge_af.errors import EdgeAfError
from edge_af.options import option

FILES, RANGES, GATE = "Files to write", "Calibration", "Accuracy gate"


@dataclass(frozen=True)
class ExportOptions:
    """The options of `edge-af export`."""

    out: Path = option("Export folder to write.")
    int8: bool = option("Write INT8 files too, with each format's default recipe.", default=False, group=FILES)
    int4: bool = option("Write INT4 files too, rounded on calibration videos if given.", default=False, group=FILES)
    fp16: bool = option("Write FP16 files too.", default=False, group=FILES)
    recipe: tuple[str, ...] = option(
        "Recipe name or YAML file, instead of the precision's default. Repeatable.",
        default=(),
        metavar="[FORMAT=]NAME|FILE",
        complete="recipe",
        group=FILES,
    )
    format: tuple[str, ...] = option(
        "Write this format only. Repeatable.", default=(), choices=tuple(FORMATS), shown_default="both", group=FILES
    )
    cpu: str | None = option(
        "Processor that INT8 ONNX files are for.",
        default=None,
        choices=("x86-64", "arm64"),
        shown_default="this machine's",
        group=FILES,
    )
    io: str = option(
        "Inputs and outputs of quantized TFLite files; int8 suits accelerators.",
        default="float32",
        choices=("float32", "int8"),
        group=FILES,
    )
    calibration_data: Path | None = option(
        "Prepared training data to find activation ranges on.", default=None, group=RANGES
    )
    calibration_videos: int = option("Number of calibration videos.", default=512, at_least=1, group=RANGES)
    seed: int = option("Random seed for sampling the calibration videos.", default=0, at_least=0, group=RANGES)
    any_calibration_data: bool = option(
        "Accept calibration data other than the run's training data.", default=False, group=RANGES
    )
    ranges: Path | None = option(
        "ranges.json of an earlier export, instead of calibration data.", default=None, group=RANGES
    )
    max_gap_drop: float | None = option(
        "Largest GAP@20 loss against FP32; layers return to float until it holds.",
        default=None,
        at_least=0,
        group=GATE,
    )
    gate_data: Path | None = option(
        "Prepared data to measure that loss on, other than the data you report on.", default=None, group=GATE
    )
    sensitivity_videos: int = option(
        "Number of videos to measure each layer's sensitivity on; 0 for none.",
        default=256,
        at_least=0,
        group=GATE,
    )
    license: str | None = option(
        "License of the weights for the model card, such as cc-by-4.0.",
        default=None,
        metavar="IDENTIFIER",
        shown_default="not stated",
    )
    overwrite: bool = option("Replace what --out holds.", default=False)
    json: bool = option("Print the manifest, without class names, as JSON.", default=False)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats to write, each once."""
        return tuple(dict.fromkeys(self.format)) or tuple(FORMATS)

    @property
    def precisions(self) -> list[str]:
        """The precisions requested by flags."""
        return [name for name in ("int8", "int4", "fp16") if getattr(self, name)]

    def __post_init__(self) -> None:
        if (self.max_gap_drop is None) != (self.gate_data is None):
            raise EdgeAfError("--max-gap-drop and --gate-data need each other.")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise EdgeAfError(
                f"--license {self.license}: expected a model hub's identifier, in lowercase letters, digits, dots and "
                "hyphens, such as cc-by-4.0."
            )
