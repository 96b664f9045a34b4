"""The networks' configurations as frozen dataclasses, and the presets. Nothing here needs torch.

`docs/explanation/networks.md` separates what the paper states from what is inferred.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edge_af.data import YOUTUBE8M, Widths
from edge_af.errors import EdgeAfError, unknown
from edge_af.typed import Mismatch, built


def _known(what: str, name: str, names: list[str]) -> str:
    if name not in names:
        raise EdgeAfError(unknown(what, name, names))
    return name


def _check_dropout(model: str, dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise EdgeAfError(f"{model}: dropout {dropout} must lie in [0, 1).")


def _check_features(model: str, features: Widths) -> None:
    if not all(1 <= width <= WIDEST for width in (features.visual, features.audio)):
        raise EdgeAfError(f"{model}: {features.visual} visual and {features.audio} audio features; expected 1 or more.")


WIDEST, DEEPEST = 1 << 20, 64
"""Limits of a valid config; no machine could hold a larger network."""

ABLATIONS = ("none", "audio", "visual", "attention")
"""Parts of AttendFusion that the paper's ablations remove."""


@dataclass(frozen=True)
class AttendFusionConfig:
    """AttendFusion: one stream of fully connected layers and self-attention per modality; late fusion.

    A stream's hidden vector of `tokens * token_width` features is split into `tokens` tokens, so that the attention's
    softmax has more than one token.
    """

    tokens: int
    """Tokens of each stream; at least 2, or the softmax would always be 1."""
    token_width: int
    """Features per token, a multiple of `heads`."""
    heads: int
    dropout: float
    """Share of features dropped before each hidden layer and the classifier."""
    fusion: int = 0
    """Features of a linear layer between the streams and the classifier; 0 for none. With many classes, most weights are
    the classifier's, and this layer makes it the product of two smaller matrices."""
    ablate: str = "none"
    """Removed part, one of `ABLATIONS`: a stream, or the attention, whose parameters then go into a plain layer."""
    features: Widths = YOUTUBE8M
    """Features of a video."""

    model = "attend-fusion"

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise EdgeAfError("attend-fusion: tokens must be at least 2: a softmax over one token is always 1.")
        if self.heads < 1 or self.token_width % self.heads:
            raise EdgeAfError(
                f"attend-fusion: token_width {self.token_width} must be a multiple of heads {self.heads}."
            )
        if self.ablate not in ABLATIONS:
            raise EdgeAfError(f"attend-fusion: ablate {self.ablate!r}: choose one of {', '.join(ABLATIONS)}.")
        if not 0 <= self.fusion <= WIDEST:
            raise EdgeAfError(f"attend-fusion: fusion {self.fusion} must lie in [0, {WIDEST:,}].")
        if self.width > WIDEST:
            raise EdgeAfError(f"attend-fusion: {self.tokens} tokens of {self.token_width} features are too many.")
        _check_features(self.model, self.features)
        _check_dropout(self.model, self.dropout)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities with a stream."""
        return tuple(name for name in ("visual", "audio") if name != self.ablate)

    @property
    def width(self) -> int:
        """Features of a stream's hidden vector."""
        return self.tokens * self.token_width


@dataclass(frozen=True)
class FCLateFusionConfig:
    """FCLateFusion: one stream of fully connected layers per modality, concatenated, one classifier."""

    width: int
    """Features of every hidden layer of both streams."""
    depth: int
    """Hidden layers of each stream; 0, with width 0, for a linear model."""
    dropout: float
    """Share of features dropped after each hidden layer."""
    features: Widths = YOUTUBE8M
    """Features of a video."""

    model = "fc-late-fusion"

    def __post_init__(self) -> None:
        if min(self.width, self.depth) < 0 or (self.width == 0) != (self.depth == 0):
            raise EdgeAfError("fc-late-fusion: width and depth must be at least 1, or both 0 for a linear model.")
        if self.width > WIDEST or self.depth > DEEPEST:
            raise EdgeAfError(f"fc-late-fusion: width {self.width} or depth {self.depth} is too large.")
        _check_features(self.model, self.features)
        _check_dropout(self.model, self.dropout)


ModelConfig = AttendFusionConfig | FCLateFusionConfig

CONFIG_OF_MODEL: dict[str, type[ModelConfig]] = {
    "attend-fusion": AttendFusionConfig,
    "fc-late-fusion": FCLateFusionConfig,
}

PRESETS: dict[str, dict[str, ModelConfig]] = {
    "attend-fusion": {
        "700k": AttendFusionConfig(tokens=4, token_width=32, heads=1, dropout=0.1, fusion=96),
        "1m": AttendFusionConfig(tokens=4, token_width=64, heads=1, dropout=0.1, fusion=128),
        "2.5m": AttendFusionConfig(tokens=16, token_width=24, heads=4, dropout=0.1, fusion=320),
        "5m": AttendFusionConfig(tokens=16, token_width=48, heads=4, dropout=0.1, fusion=448),
        "9m": AttendFusionConfig(tokens=16, token_width=64, heads=4, dropout=0.2, fusion=832),
        "small": AttendFusionConfig(tokens=16, token_width=64, heads=4, dropout=0.2),
        "18m": AttendFusionConfig(tokens=16, token_width=84, heads=4, dropout=0.6),
        "36m": AttendFusionConfig(tokens=16, token_width=148, heads=4, dropout=0.6),
        "paper": AttendFusionConfig(tokens=16, token_width=244, heads=4, dropout=0.6),
    },
    "fc-late-fusion": {
        "linear": FCLateFusionConfig(width=0, depth=0, dropout=0.0),
        "small": FCLateFusionConfig(width=2048, depth=3, dropout=0.3),
        "paper": FCLateFusionConfig(width=8000, depth=3, dropout=0.5),
    },
}
"""Model -> preset -> config. `paper` has the parameter counts of the paper's Table 1 at 4,716 classes. The presets from `700k`
to `36m` are named after theirs; those below 10 million factorize the classifier. `linear` has no hidden layers, as a lower
bound."""


def preset(model: str, name: str) -> ModelConfig:
    """Return a preset by name.

    Raises:
        EdgeAfError: unknown model or preset; the message suggests the nearest.
    """
    presets = PRESETS[_known("model", model, list(PRESETS))]
    return presets[_known(f"preset of {model}", name, list(presets))]


def config_from_dict(model: Any, fields: Any) -> ModelConfig:
    """Build a model's config from the result of `dataclasses.asdict`.

    Raises:
        EdgeAfError: unknown model, or missing, unknown or mistyped fields.
    """
    if not isinstance(model, str) or not isinstance(fields, dict):
        raise EdgeAfError(f"model is {model!r:.40} and config is {fields!r:.40}; expected a name and an object")
    kind = CONFIG_OF_MODEL[_known("model", model, list(CONFIG_OF_MODEL))]
    # Runs of earlier versions lack later fields, which have defaults.
    expected = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    if not {name for name, required in expected.items() if required} <= set(fields) <= set(expected):
        raise EdgeAfError(f"{model}: config has the fields {sorted(fields)}; expected {sorted(expected)}.")
    try:
        return built(kind, fields)
    except Mismatch as error:
        raise EdgeAfError(f"{model}: config.{error}") from None
