"""Options of `edge-af train`. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from edge_af.options import check, option


@dataclass(frozen=True)
class TrainOptions:
    """Training options."""

    epochs: int = option("Passes over the training videos.", default=6, at_least=1)
    batch: int = option("Videos per step.", default=256, at_least=2)
    lr: float = option("Peak learning rate of AdamW.", default=2e-3, above=0)
    weight_decay: float = option("Weight decay of AdamW, on weight matrices only.", default=0.05, at_least=0)
    warmup: float = option(
        "Share of all steps in which the learning rate rises from 0.", default=0.1, at_least=0, below=1
    )
    clip: float = option("Largest norm of a step's gradient.", default=5.0, above=0)
    average: float = option("Decay of the averaged weights, per step.", default=0.99, at_least=0, below=1)
    patience: int = option(
        "Epochs without a better held-out GAP@20 before training stops; 0 to disable.", default=0, at_least=0
    )
    held_out: float = option(
        "Share of the videos held out to choose the best epoch and the F1 threshold.", default=0.05, above=0, below=1
    )
    mixup: float = option(
        "Mixup: alpha of the Beta distribution of shares; 0 to disable.",
        default=0.0,
        at_least=0,
    )
    teacher_weight: float = option(
        "Share of the teacher in the loss; the labels have the rest.", default=0.5, at_least=0, at_most=1
    )
    seed: int = option("Random seed for the split, the order, the initial weights and dropout.", default=0, at_least=0)
    precision: str = option(
        "fp32, bf16, or auto for bf16 where it is faster.",
        default="auto",
        choices=("auto", "fp32", "bf16"),
    )
    device: str = option(
        "cpu, cuda, or auto for a GPU if PyTorch finds one.", default="auto", choices=("auto", "cpu", "cuda")
    )
    compile: bool = option("Compile the network with torch.compile; faster on a GPU.", default=False)
    checkpoint_steps: int = option(
        "Steps between checkpoints; 0 for the end of each epoch only.", default=0, at_least=0
    )
    threads: int = option("Threads of PyTorch; 0 for all available cores.", default=0, at_least=0)

    def __post_init__(self) -> None:
        check(self)
