"""Quantization-aware training: fine-tune a network with a recipe's integers in the forward pass.

Weights and inputs of the fully connected layers are rounded as the exported file's are; gradients pass through the
rounding unchanged (straight-through estimator, Bengio et al. 2013, arXiv:1308.3432). The layers are first brought to the
form in which they are exported, with BatchNorm folded in. The run that is saved holds weights on the recipe's grid, so that
an export with this recipe stores exactly the integers of the training. Files for x86-64's ONNX Runtime are an exception for
INT8: their weights are limited to ±64 (`runtime.ort.PAIR_LIMIT`), and the export rounds them to that once more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph
from edge_af.export.quantize import SPAN, Affine, fused_relu, plan
from edge_af.export.ranges import Ranges, choose_videos, find_ranges, weights_sha256, write_ranges
from edge_af.export.recipes import Form, Recipe
from edge_af.export.trace import trace
from edge_af.models.networks import AttendFusion, FCLateFusion, FeatureAttention, PlainMixing

RANGES = "ranges.json"
"""File in the run folder with the activation ranges of a recipe with static activations, for `edge-af export --ranges`."""
CALIBRATION_VIDEOS = 512


@dataclass(frozen=True)
class QuantizedForm:
    """Rounding of one layer in the forward pass."""

    form: Form
    input: Affine | None
    """INT8 form of the layer's input for static activations."""
    output: Affine | None
    """INT8 form of the following ReLU's output. Other outputs stay float in ONNX files; TFLite rounds those of static
    layers, except the logits."""


class QuantizedLinear(nn.Linear):
    """A fully connected layer that rounds its weights and input. A trained `nn.Linear` becomes one in place."""

    quantized: QuantizedForm
    scale: Tensor | None
    """(out, blocks), the fixed steps of INT2 weights; None for other weights, whose steps follow the largest weight."""
    factor: Tensor
    """(out, 1), by which the exporter multiplies each output feature: 1/√d for the attention's queries, else 1."""

    def rounded_weight(self) -> Tensor:
        """Return the weights as the exported file holds them, divided by `factor`."""
        return rounded_weight(self.weight * self.factor, self.quantized.form, self.scale) / self.factor

    def forward(self, x: Tensor) -> Tensor:
        # bfloat16's 8 bits would round the grid of INT8 once more.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            weight = self.weight + (self.rounded_weight() - self.weight).detach()
            x = x + (rounded_input(x, self.quantized) - x).detach()
            y = nn.functional.linear(x, weight, self.bias)
            if self.quantized.output is None:
                return y
            # The ReLU that follows has no effect: the rounding already clips at zero.
            return y + (rounded_to(y, self.quantized.output) - y).detach()


class FoldedNorm(nn.BatchNorm1d):
    """A BatchNorm that was folded into the layers around it, and does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@torch.no_grad()
def rounded_weight(weight: Tensor, form: Form, scale: Tensor | None = None) -> Tensor:
    """Round weights (out, in) float32 as `export.quantize.quantize_weight` does; return them dequantized.

    Args:
        weight: float32.
        form: the layer's form.
        scale: steps (out, blocks); None to choose them so that the largest weight of a row or block fits.
    """
    if not form.is_integer:
        return weight.half().float()
    low, high = SPAN[form.weights]
    blocks = weight.reshape(len(weight), -1, form.block or weight.shape[1])
    if scale is None:
        reach = torch.maximum(blocks.amin(-1).double() / low, blocks.amax(-1).double() / high).float()
        if form.block is None:
            scale = reach.clamp(min=torch.finfo(torch.float32).tiny)
        else:  # As `export.quantize.block_scale`.
            scale = reach.bfloat16().float().clamp(min=2.0**-24).half().float()
    step = scale[..., None]
    return (torch.clamp(torch.round(blocks / step), low, high) * step).view_as(weight)


@torch.no_grad()
def rounded_input(x: Tensor, quantized: QuantizedForm) -> Tensor:
    """Return a layer's input (n, in) rounded as at inference: on a static range, or on 256 steps of each row's range."""
    if quantized.input is not None:
        return rounded_to(x, quantized.input)
    if not quantized.form.runs_in_integers:
        return x
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    zero = torch.round(-low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale


@torch.no_grad()
def rounded_to(x: Tensor, affine: Affine) -> Tensor:
    """Round values to INT8 and back."""
    steps = torch.clamp(torch.round(x / affine.scale) + affine.zero_point, -128, 127)
    return (steps - affine.zero_point) * affine.scale


def quantize_network(network: AttendFusion | FCLateFusion, recipe: Recipe, ranges: Ranges | None) -> None:
    """Fold a trained network's BatchNorms, and make its layers round as `recipe` says, in place.

    Args:
        network: trained, on the CPU.
        recipe: the recipe; its rounding and bias correction are left to the training.
        ranges: activation ranges of the network, for static activations.

    Raises:
        EdgeAfError: the recipe's layers do not match the network, or ranges are missing.
    """
    graph = trace(network, network.head.out_features, network.features)
    _fold(network, graph)
    plain = replace(
        recipe, form=_plain(recipe.form), layers={name: _plain(form) for name, form in recipe.layers.items()}
    )
    made = plan(graph, plain, ranges)
    for gemm in graph.gemms():
        layer = network.get_submodule(gemm.name)
        if gemm.name not in made.layers:
            continue
        form = made.layers[gemm.name].form
        _become(layer, QuantizedLinear)
        assert isinstance(layer, QuantizedLinear)
        relu = fused_relu(graph, gemm)
        static = form.activations == "static"
        layer.quantized = QuantizedForm(
            form,
            input=made.tensors[gemm.inputs[0]] if static else None,
            output=made.tensors[relu.outputs[0]] if static and relu is not None else None,
        )
        scale = torch.from_numpy(made.layers[gemm.name].weight_scale) if form.weights == "int2" else None
        layer.register_buffer("scale", scale, persistent=False)
        layer.register_buffer("factor", torch.ones(layer.out_features, 1), persistent=False)
    for block in network.modules():
        if isinstance(block, FeatureAttention) and isinstance(block.qkv, QuantizedLinear):
            block.qkv.factor[: block.heads * block.head_width] = block.head_width**-0.5


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change a module's class and keep its parameters, so that their names stay those of the network."""
    module.__class__ = kind


def _plain(form: Form) -> Form:
    return replace(form, rounding="nearest", bias_correction=False)


def _fold(network: AttendFusion | FCLateFusion, graph: Graph) -> None:
    """Take the folded weights from the exported graph, and make every BatchNorm the identity."""
    # The exporter moves the attention's 1/√d into its projection, which the network applies itself.
    own = {
        f"{name}.{part}"
        for name, block in network.named_modules()
        if isinstance(block, FeatureAttention | PlainMixing)
        for part, _ in block.named_modules()
    }
    for gemm in graph.gemms():
        layer = network.get_submodule(gemm.name)
        if gemm.name not in own:
            assert isinstance(layer, nn.Linear)
            for parameter, name in zip((layer.weight, layer.bias), gemm.inputs[1:], strict=True):
                parameter.data = torch.from_numpy(np.array(graph.constants[name]))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None and norm.running_var is not None
            _become(norm, FoldedNorm)
            norm.requires_grad_(False)
            norm.weight.data.fill_(1)
            norm.bias.data.zero_()
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)


def ranges_for(
    network: AttendFusion | FCLateFusion, recipe: Recipe, dataset: Dataset, rows: NDArray[np.int64]
) -> Ranges | None:
    """Return the network's activation ranges on at most `CALIBRATION_VIDEOS` of `rows` if the recipe needs them."""
    if not recipe.needs_ranges:
        return None
    chosen = choose_videos(rows, CALIBRATION_VIDEOS, 0)
    return find_ranges(trace(network, network.head.out_features, network.features), dataset, chosen, seed=0)


@torch.no_grad()
def on_grid(network: AttendFusion | FCLateFusion) -> AttendFusion | FCLateFusion:
    """Return a copy of the network with plain layers, whose weights are as the forward pass rounds them."""
    found = copy.deepcopy(network)
    for layer in found.modules():
        if isinstance(layer, QuantizedLinear):
            layer.weight.data = layer.rounded_weight()
            _become(layer, nn.Linear)
        elif isinstance(layer, FoldedNorm):
            _become(layer, nn.BatchNorm1d)
    return found


def save_ranges(folder: Path, ranges: Ranges, network: AttendFusion | FCLateFusion) -> None:
    """Write the ranges to the run folder, as those of a trained network from `on_grid`."""
    graph = trace(network.cpu(), network.head.out_features, network.features)
    write_ranges(folder / RANGES, replace(ranges, network_sha256=weights_sha256(graph)))
