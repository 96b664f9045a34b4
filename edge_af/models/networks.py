"""The two networks in PyTorch. Both map visual (n, width) and audio (n, width) float32 features to logits (n, classes)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig, ModelConfig


class FeatureAttention(nn.Module):
    """Multi-head scaled dot-product self-attention, softmax(Q Kᵀ / √d) V, over the tokens of one video.

    The projections use a matrix (n * tokens, token_width) instead of a 3-D tensor, because a Linear of a matrix exports as
    one Gemm, for which every runtime has an integer kernel. Q, K and V come from one packed projection.
    `nn.MultiheadAttention` is unsuitable: given a matrix, it attends across the videos of a batch.
    """

    def __init__(self, tokens: int, token_width: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.heads, self.head_width = tokens, heads, token_width // heads
        # Tokens are feature groups, distinguished only by position.
        self.position = nn.Parameter(torch.zeros(tokens, token_width))
        self.qkv = nn.Linear(token_width, 3 * token_width)
        self.out = nn.Linear(token_width, token_width)

    def weights(self, x: Tensor) -> Tensor:
        """Attention weights of hidden vectors (n, tokens * token_width): (n, heads, tokens, tokens); each row sums to 1."""
        query, key, _ = self._project(x)
        return torch.softmax(query @ key.transpose(2, 3) / math.sqrt(self.head_width), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden vectors (n, tokens * token_width) to the same shape, without a residual."""
        query, key, value = self._project(x)
        attention = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(self.head_width), dim=-1)
        mixed = (attention @ value).transpose(1, 2).reshape(-1, self.heads * self.head_width)
        return self.out(mixed).reshape(-1, self.tokens * self.heads * self.head_width)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Use few, large operators: the weights evict the caches at every inference, so each small operator costs cache
        # misses. Use at most 4 dimensions, which every kernel supports.
        tokens = (x + self.position.reshape(-1)).reshape(-1, self.heads * self.head_width)
        packed = self.qkv(tokens).reshape(-1, self.tokens, 3 * self.heads, self.head_width).transpose(1, 2)
        query, key, value = packed.chunk(3, dim=1)
        return query, key, value


class PlainMixing(nn.Module):
    """Replacement of ablated attention: a two-layer perceptron on each token separately.

    Its hidden layer has the width of two tokens, so it has the attention's number of parameters minus one bias vector.
    """

    def __init__(self, tokens: int, token_width: int) -> None:
        super().__init__()
        self.tokens, self.token_width = tokens, token_width
        self.position = nn.Parameter(torch.zeros(tokens, token_width))
        self.fc1 = nn.Linear(token_width, 2 * token_width)
        self.fc2 = nn.Linear(2 * token_width, token_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden vectors (n, tokens * token_width) to the same shape, without a residual."""
        tokens = x.reshape(-1, self.tokens, self.token_width) + self.position
        mixed = self.fc2(torch.relu(self.fc1(tokens.reshape(-1, self.token_width))))
        return mixed.reshape(-1, self.tokens * self.token_width)


class AttendStream(nn.Module):
    """One modality: two FC layers, then self-attention over feature-group tokens with a residual."""

    def __init__(self, features: int, config: AttendFusionConfig) -> None:
        super().__init__()
        width = config.width
        self.fc1 = nn.Linear(features, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(config.dropout)
        self.fc2 = nn.Linear(width, width)
        self.norm2 = nn.BatchNorm1d(width)
        self.attention: FeatureAttention | PlainMixing
        if config.ablate == "attention":
            self.attention = PlainMixing(config.tokens, config.token_width)
        else:
            self.attention = FeatureAttention(config.tokens, config.token_width, config.heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (n, features) to the stream's hidden vector (n, width)."""
        # BatchNorm comes before the ReLU, so that export can fold it into the layer before it.
        x = torch.relu(self.norm1(self.fc1(x)))
        x = torch.relu(self.norm2(self.fc2(self.dropout(x))))
        return x + self.attention(x)


class AttendFusion(nn.Module):
    """Two attention streams, concatenated, and one classifier, which `fusion` factorizes (Awan et al. 2024)."""

    def __init__(self, config: AttendFusionConfig, classes: int) -> None:
        super().__init__()
        self.modalities, self.features = config.modalities, config.features
        for name in self.modalities:
            self.add_module(name, AttendStream(config.features.of(name), config))
        self.dropout = nn.Dropout(config.dropout)
        joined = len(self.modalities) * config.width
        if config.fusion:
            self.fusion = nn.Linear(joined, config.fusion)
        self.head = nn.Linear(config.fusion or joined, classes)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        given = {"visual": visual, "audio": audio}
        streams = [self.get_submodule(name)(given[name]) for name in self.modalities]
        x = self.dropout(torch.cat(streams, dim=1))
        if hasattr(self, "fusion"):
            x = self.fusion(x)
        return self.head(x)


class FCLateFusion(nn.Module):
    """Two streams of fully connected layers, concatenated, one classifier: the paper's baseline.

    A layer is Dense, ReLU, BatchNorm, Dropout, the order of the authors' published code.
    """

    def __init__(self, config: FCLateFusionConfig, classes: int) -> None:
        super().__init__()
        self.features = features = config.features
        self.visual = self._stream(features.visual, config)
        self.audio = self._stream(features.audio, config)
        # Without hidden layers the classifier reads the features.
        self.head = nn.Linear(2 * config.width or features.visual + features.audio, classes)

    @staticmethod
    def _stream(features: int, config: FCLateFusionConfig) -> nn.Sequential:
        stream = nn.Sequential()
        for number in range(1, config.depth + 1):
            stream.add_module(f"fc{number}", nn.Linear(features if number == 1 else config.width, config.width))
            stream.add_module(f"relu{number}", nn.ReLU())
            stream.add_module(f"norm{number}", nn.BatchNorm1d(config.width))
            stream.add_module(f"dropout{number}", nn.Dropout(config.dropout))
        return stream

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        return self.head(torch.cat([self.visual(visual), self.audio(audio)], dim=1))


class WithScores(nn.Module):
    """A network followed by the sigmoid, for export."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        return torch.sigmoid(self.network(visual, audio))


def build(config: ModelConfig, classes: int) -> AttendFusion | FCLateFusion:
    """Build the network of a config with PyTorch's initialization; see `initialize`."""
    if isinstance(config, AttendFusionConfig):
        return AttendFusion(config, classes)
    return FCLateFusion(config, classes)


def initialize(network: AttendFusion | FCLateFusion, prior: Tensor, generator: torch.Generator) -> None:
    """Initialize a network so that every video's scores are the class frequencies.

    Hidden layers get He's normal initialization. The classifier gets weights near zero, and the log-odds of the prior as
    bias: with PyTorch's default, the first epochs unlearn some 2,000 false positives per video. The attention's last
    projection starts at zero, so the block starts as the identity: random weights cost more than the attention gains.

    Args:
        network: changed in place.
        prior: (classes,) float32, each class's share of the training videos, strictly between 0 and 1.
        generator: source of every random number.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(module.bias)
    # Override the loop above, because the layers in these blocks are Linear too.
    for block in network.modules():
        if isinstance(block, FeatureAttention | PlainMixing):
            nn.init.normal_(block.position, std=0.02, generator=generator)
        if isinstance(block, FeatureAttention):
            nn.init.normal_(block.qkv.weight, std=block.qkv.in_features**-0.5, generator=generator)
            nn.init.zeros_(block.out.weight)
        if isinstance(block, PlainMixing):
            nn.init.zeros_(block.fc2.weight)
    nn.init.normal_(network.head.weight, std=1e-3, generator=generator)
    with torch.no_grad():
        network.head.bias.copy_(torch.log(prior) - torch.log1p(-prior))


def count_params(network: nn.Module) -> int:
    """Trained parameters, BatchNorm's scales and shifts included."""
    return sum(parameter.numel() for parameter in network.parameters())
