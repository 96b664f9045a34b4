"""Compare the design choices that the paper on Attend-Fusion leaves open with their alternatives.

    python benchmarks/architecture.py --data runs/data/train --out benchmarks/results/architecture

trains every variant for a few epochs on a prepared training set and measures it on held-out videos: one in ten, the
same for all variants. The evaluation videos are not used. The first variant is the project's own network, trained with
three seeds to show the variation between runs. An interrupted run continues when started again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import Tensor, nn

from edge_af.console import say
from edge_af.data.batches import split
from edge_af.data.dataset import Dataset, open_dataset
from edge_af.files import read_json, write_atomic, write_json
from edge_af.machine.device import this_device
from edge_af.models import networks
from edge_af.models.networks import AttendStream, FeatureAttention
from edge_af.models.presets import AttendFusionConfig
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions

OPTIONS = TrainOptions(epochs=5, batch=256, lr=1.5e-3, held_out=0.1)
OWN = AttendFusionConfig(tokens=16, token_width=64, heads=4, dropout=0.3)


class WithoutResidual(AttendStream):
    def forward(self, x: Tensor) -> Tensor:
        return self.attention(_fc_layers(self, x))


class NormBehindRelu(AttendStream):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(torch.relu(self.fc1(x)))
        x = self.norm2(torch.relu(self.fc2(self.dropout(x))))
        return x + self.attention(x)


class LayerNorm(AttendStream):
    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__(features, config)
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)  # type: ignore[assignment]


class NoNorm(AttendStream):
    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__(features, config)
        self.norm1, self.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]


class Gelu(AttendStream):
    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        x = gelu(self.norm1(self.fc1(x)))
        x = gelu(self.norm2(self.fc2(self.dropout(x))))
        return x + self.attention(x)


class OneLayerMore(AttendStream):
    """A third FC layer before the attention."""

    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__(features, config)
        self.fc3, self.norm3 = nn.Linear(config.width, config.width), nn.BatchNorm1d(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm3(self.fc3(self.dropout(_fc_layers(self, x)))))
        return x + self.attention(x)


class OneLayerLess(AttendStream):
    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__(features, config)
        self.fc2, self.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.fc1(x)))
        return x + self.attention(x)


class TwoAttentions(AttendStream):
    """A second attention after the first."""

    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__(features, config)
        self.attention2 = FeatureAttention(config.tokens, config.token_width, config.heads)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x + self.attention2(x)


class AttentionBetween(AttendStream):
    """The attention between the FC layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.fc1(x)))
        x = x + self.attention(x)
        return torch.relu(self.norm2(self.fc2(self.dropout(x))))


def _fc_layers(stream: AttendStream, x: Tensor) -> Tensor:
    x = torch.relu(stream.norm1(stream.fc1(x)))
    return torch.relu(stream.norm2(stream.fc2(stream.dropout(x))))


def _initialized_at_random(network: Any, prior: Tensor, generator: torch.Generator) -> None:
    networks.initialize(network, prior, generator)
    for block in network.modules():
        if isinstance(block, FeatureAttention):
            nn.init.normal_(block.out.weight, std=block.out.in_features**-0.5, generator=generator)


@dataclass(frozen=True)
class Variant:
    """One network to try."""

    choice: str
    """Design choice, a column of the table."""
    name: str
    config: AttendFusionConfig = OWN
    stream: type[AttendStream] = AttendStream
    initialize: Callable[..., None] = networks.initialize
    seed: int = 0


VARIANTS = (
    Variant("ours", "16 tokens × 64, 4 heads, BatchNorm, ReLU, residual"),
    Variant("ours", "seed 1", seed=1),
    Variant("ours", "seed 2", seed=2),
    Variant("tokens", "4 tokens × 256", replace(OWN, tokens=4, token_width=256)),
    Variant("tokens", "8 tokens × 128", replace(OWN, tokens=8, token_width=128)),
    Variant("tokens", "32 tokens × 32", replace(OWN, tokens=32, token_width=32)),
    Variant("heads", "1 head", replace(OWN, heads=1)),
    Variant("heads", "8 heads", replace(OWN, heads=8)),
    Variant("depth", "one FC layer a stream less", stream=OneLayerLess),
    Variant("depth", "one FC layer a stream more", stream=OneLayerMore),
    Variant("depth", "two attentions", stream=TwoAttentions),
    Variant("place", "attention between the FC layers", stream=AttentionBetween),
    Variant("attention", "a perceptron on each token instead", replace(OWN, ablate="attention")),
    Variant("norm", "BatchNorm behind the ReLU", stream=NormBehindRelu),
    Variant("norm", "LayerNorm", stream=LayerNorm),
    Variant("norm", "none", stream=NoNorm),
    Variant("activation", "GELU", stream=Gelu),
    Variant("residual", "none", stream=WithoutResidual),
    Variant("start", "last projection at random", initialize=_initialized_at_random),
)


def tried(variant: Variant, dataset: Dataset) -> dict[str, Any]:
    """Train a variant and return its row of the table."""
    options = replace(OPTIONS, seed=variant.seed)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(networks, "AttendStream", variant.stream),
        patch("edge_af.train.loop.initialize", variant.initialize),
        # The seed changes the initial weights and the order, but not the held-out videos.
        patch("edge_af.train.loop.split", lambda videos, share, seed: split(videos, share, 0)),
    ):
        run = train(TrainRequest(dataset, variant.config, variant.name, Path(folder) / "run", options))
    return {
        "choice": variant.choice,
        "name": variant.name,
        "params": run.params,
        "seed": variant.seed,
        "epoch": run.training["epoch"],
        "held_out_gap_at_20": run.training["held_out"]["gap_at_20"],
        "held_out_loss": run.training["held_out_loss"],
        "seconds": time.monotonic() - started,
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the table of all rows, each with its difference to the project's own network."""
    rows = found["rows"]
    own = [row["held_out_gap_at_20"] for row in rows if row["choice"] == "ours"]
    lines = ["| choice | tried | parameters | held-out GAP@20 | to ours |", "|---|---|---:|---:|---:|"]
    for row in rows:
        gap = row["held_out_gap_at_20"]
        lines.append(
            f"| {row['choice']} | {row['name']} | {row['params'] / 1e6:.2f}M | {gap:.4f} | {gap - own[0]:+.4f} |"
        )
    lines += [
        "",
        f"Our three seeds range from {min(own):.4f} to {max(own):.4f}; `to ours` is the difference to seed 0. "
        f"{found['options']['epochs']} epochs, {found['videos']:,} videos, held-out ones included.",
        "",
        f"Made by `{found['command']}` at {_commits(rows)} on {found['device']['cpu']}, "
        f"{found['device']['cores']} cores. Videos are YouTube-8M's (Google LLC, CC BY 4.0).",
    ]
    return "\n".join(lines) + "\n"


def _commits(rows: list[dict[str, Any]]) -> str:
    found = list(dict.fromkeys(str(row["commit"]) for row in rows))
    return f"commit{'s' if len(found) > 1 else ''} {', '.join(found)}"


def main() -> None:
    """Train every variant that is not recorded yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared training data")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    path = given.out.with_suffix(".json")
    here = Path(__file__).resolve().parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, encoding="utf-8", errors="replace"
    )
    found: dict[str, Any] = {
        "schema_version": 1,
        "command": f"python benchmarks/architecture.py --data {given.data} --out {given.out}",
        "device": asdict(this_device()),
        "options": asdict(OPTIONS),
        "videos": dataset.videos,
        "rows": read_json(path, "file of results")["rows"] if path.exists() else [],
    }
    for variant in VARIANTS:
        if (variant.choice, variant.name) in {(row["choice"], row["name"]) for row in found["rows"]}:
            continue
        say(f"\n{variant.choice}: {variant.name}")
        found["rows"].append({**tried(variant, dataset), "commit": commit.stdout.strip() or None})
        write_json(path, found)
        write_atomic(given.out.with_suffix(".md"), markdown(found))


if __name__ == "__main__":
    main()
