"""How to train: one frozen dataclass, whose fields are the flags of `edge-af train`. Nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from edge_af.errors import EdgeAfError


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainOptions:
    """How to train. `metadata["help"]` of a field is its meaning, with its unit."""

    epochs: int = _flag(6, "Passes over the training videos.")
    batch: int = _flag(256, "Videos a step.")
    lr: float = _flag(2e-3, "Peak learning rate of AdamW.")
    weight_decay: float = _flag(0.05, "AdamW's, on weight matrices only.")
    warmup: float = _flag(0.1, "Share of all steps over which the learning rate rises from 0.")
    clip: float = _flag(5.0, "Largest norm of a step's gradient.")
    average: float = _flag(0.99, "Decay of the averaged weights, a step.")
    patience: int = _flag(0, "Stop after so many epochs without a better held-out GAP@20; 0 for never.")
    held_out: float = _flag(0.05, "Share of the videos held out for choosing the best epoch and the F1 threshold.")
    teacher_weight: float = _flag(
        0.5, "With --teacher: share of the loss that its scores have; the labels have the rest."
    )
    seed: int = _flag(0, "Of the split, the order, the first weights and dropout.")
    precision: str = _flag("auto", "fp32, bf16, or auto: bf16 where this machine is measured to be faster in it.")
    device: str = _flag("auto", "cpu, cuda, or auto: a GPU where PyTorch finds one.")
    compile: bool = _flag(False, "Compile the network with torch.compile; pays on a GPU.")
    checkpoint_steps: int = _flag(
        0, "Save all that --resume needs every so many steps; 0 for the end of each epoch only."
    )
    threads: int = _flag(0, "Threads of PyTorch; 0 for as many as this process may use.")

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1),
            ("batch", 2),
            ("threads", 0),
            ("patience", 0),
            ("seed", 0),
            ("checkpoint_steps", 0),
        ):
            if getattr(self, name) < low:
                raise EdgeAfError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}.")
        for name in ("lr", "clip"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise EdgeAfError(f"--{name} {getattr(self, name)}: must be above 0.")
        if not self.weight_decay >= 0:
            raise EdgeAfError(f"--weight-decay {self.weight_decay}: must not be negative.")
        for name in ("warmup", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise EdgeAfError(f"--{name} {getattr(self, name)}: must lie in [0, 1).")
        if not 0 <= self.teacher_weight <= 1:
            raise EdgeAfError(f"--teacher-weight {self.teacher_weight}: must lie in [0, 1].")
        if not 0 < self.held_out < 1:
            raise EdgeAfError(f"--held-out {self.held_out}: must lie between 0 and 1.")
        for name, choices in (("precision", ("auto", "fp32", "bf16")), ("device", ("auto", "cpu", "cuda"))):
            if (value := getattr(self, name)) not in choices:
                raise EdgeAfError(f"--{name} {value}: choose one of {', '.join(choices)}.")
