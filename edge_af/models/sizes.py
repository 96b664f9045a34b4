"""Sizes of a network's layers, computed from its config. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from edge_af.models.presets import AttendFusionConfig, ModelConfig

INT4_BLOCK = 32
"""Weights that share one float16 scale at INT4."""

TRAINING_PASSES = 3
"""Forward pass, gradients of the inputs, gradients of the weights: each costs a layer's MACs once."""


@dataclass(frozen=True)
class LayerSize:
    """A matrix product, with its trained parameters."""

    name: str
    shape: str
    """`inputs × outputs`, and the number of applications per video if more than one."""
    matrix: int
    """Entries of its weight matrix; 0 for the attention's products, which have none."""
    vector: int
    """Biases, positions, and BatchNorm's scales and shifts."""
    bias: int
    """Part of `vector` that remains after folding BatchNorm."""
    multiply_adds: int
    """MACs for one video."""
    reads_features: bool = False
    """True if it reads the features, which need no gradient."""

    @property
    def params(self) -> int:
        return self.matrix + self.vector


def layer_sizes(config: ModelConfig, classes: int) -> list[LayerSize]:
    """Return the layers in the order of the data, stream by stream, the classifier last."""
    found: list[LayerSize] = []
    modalities = config.modalities if isinstance(config, AttendFusionConfig) else ("visual", "audio")
    streams = {name: config.features.of(name) for name in modalities}
    if isinstance(config, AttendFusionConfig):
        for stream, features in streams.items():
            found += _attend_stream(stream, features, config)
        if config.fusion:
            found.append(_dense("fusion", config.width * len(streams), config.fusion, norm=False))
            return [*found, _dense("head", config.fusion, classes, norm=False)]
    else:
        for stream, features in streams.items():
            found += [
                _dense(f"{stream}.fc{depth + 1}", config.width if depth else features, config.width, norm=True,
                       first=depth == 0)
                for depth in range(config.depth)
            ]  # fmt: skip
    joined = config.width * len(streams) or sum(streams.values())
    return [*found, _dense("head", joined, classes, norm=False, first=joined == sum(streams.values()))]


def _dense(name: str, inputs: int, outputs: int, *, norm: bool, first: bool = False) -> LayerSize:
    vector = outputs * (3 if norm else 1)
    product = inputs * outputs
    return LayerSize(name, f"{inputs} × {outputs}", product, vector, outputs, product, first)


def _attend_stream(stream: str, features: int, config: AttendFusionConfig) -> list[LayerSize]:
    tokens, token, width = config.tokens, config.token_width, config.width

    def on_tokens(name: str, inputs: int, outputs: int, extra: int = 0) -> LayerSize:
        times = f"{inputs} × {outputs}, {tokens} times"
        return LayerSize(
            f"{stream}.attention.{name}", times, inputs * outputs, outputs + extra, outputs + extra,
            tokens * inputs * outputs,
        )  # fmt: skip

    position = tokens * token
    if config.ablate == "attention":
        mixing = [on_tokens("fc1", token, 2 * token, position), on_tokens("fc2", 2 * token, token)]
    else:
        mixing = [
            on_tokens("qkv", token, 3 * token, position),
            LayerSize(f"{stream}.attention", f"softmax(QKᵀ/√d)V, {tokens} tokens", 0, 0, 0, 2 * tokens**2 * token),
            on_tokens("out", token, token),
        ]
    return [
        _dense(f"{stream}.fc1", features, width, norm=True, first=True),
        _dense(f"{stream}.fc2", width, width, norm=True),
        *mixing,
    ]


def param_count(config: ModelConfig, classes: int) -> int:
    """Trainable parameters of the network, including BatchNorm's scales and shifts."""
    return sum(layer.params for layer in layer_sizes(config, classes))


def multiply_adds(config: ModelConfig, classes: int) -> int:
    """MACs of the forward pass for one video."""
    return sum(layer.multiply_adds for layer in layer_sizes(config, classes))


def training_flops(config: ModelConfig, classes: int) -> int:
    """Floating-point operations of the matrix products for training on one video; a MAC is two."""
    return sum(
        2 * layer.multiply_adds * (TRAINING_PASSES - layer.reads_features) for layer in layer_sizes(config, classes)
    )


def deployed_bytes(config: ModelConfig, classes: int, precision: str) -> int:
    """Bytes of the weights and biases after folding BatchNorm, without the file's structure.

    Args:
        config, classes: the network.
        precision: `fp32`; `int8`, with one float32 scale per output feature; `int4`, with one float16 scale for every
            `INT4_BLOCK` weights. Biases always take four bytes.
    """
    total = 0
    for layer in layer_sizes(config, classes):
        scales = {"fp32": 0, "int8": 4 * layer.bias, "int4": 2 * layer.matrix // INT4_BLOCK}[precision]
        weights = {"fp32": 4 * layer.matrix, "int8": layer.matrix, "int4": layer.matrix // 2}[precision]
        total += weights + (scales if layer.matrix else 0) + 4 * layer.bias
    return total
