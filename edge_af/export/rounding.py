"""Round weights better, using a layer's inputs on training videos.

Round-to-nearest minimizes the error of the weights, not the error of the layer's output. Let X (rows, in) be a layer's
inputs and e = w - ŵ the errors of one output feature's weights. Its outputs are off by X e. GPTQ (Frantar et al. 2022,
arXiv:2210.17323) rounds one column after the other so that each column compensates for the errors before it:

    minimize ‖X e‖² + λ ‖e‖²   over integer ŵ / scale, one column at a time.

With H = XᵀX + λ I = L D Lᵀ, L unit lower triangular, this is Σ Dᵢ (eᵢ + Σ_{k>i} L_ki e_k)². From the last column to the
first, rounding wᵢ + Σ_{k>i} L_ki e_k to nearest minimizes every term. The paper computes the same from the inverse of H,
with one more factorization.

For a head with 16,000 inputs, H has 256 million entries but, made from a few hundred videos, a rank of a few hundred. So H
is never computed. Instead we keep the outputs' error so far, R = E_done X_doneᵀ (out, rows), and for the free columns
G = X_free X_freeᵀ + λ I (rows, rows). After the free columns have compensated for an error r as far as possible, it costs
r M rᵀ with M = λ G⁻¹ (ridge regression). A block b of columns then needs H_b = X_bᵀ M X_b + λ I and the gradient R M X_b,
which are exactly the block of H's factors in the recursion above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph
from edge_af.export.quantize import ROWS, FloatLayer, Rounded, Span, quantize_weight, spread
from edge_af.export.ranges import run_batches
from edge_af.export.recipes import Form

if TYPE_CHECKING:
    from edge_af.console import Progress

DAMPING = 1.0
"""λ as a share of the mean diagonal of XᵀX. The paper uses 0.01, with more rows than columns. With a few hundred videos
that overfits; see `docs/explanation/decisions.md` for the measurement."""
STEP = 128
"""Columns per block, as in the paper; more with many rows, so that G is factorized less often."""


@dataclass(frozen=True)
class Rounder:
    """A `WeightQuantizer` that rounds each layer's weights as its form requires."""

    inputs: Mapping[str, NDArray[np.float32]]
    """Inputs of each layer with `gptq` or bias correction, from `layer_inputs`."""

    def __call__(self, layer: FloatLayer, form: Form, span: Span, least_scale: NDArray[np.float64] | float) -> Rounded:
        weight, bias = layer.weight, layer.bias
        integers, scale = quantize_weight(weight, span, form.block, least_scale)
        if form.rounding == "nearest" and not form.bias_correction:
            return integers, scale, bias
        inputs = self.inputs[layer.name]
        mean = inputs.mean(axis=0, dtype=np.float64)
        if form.rounding == "gptq":
            # The bias compensates for the mean error, so the weights minimize only the rest.
            seen = inputs - mean.astype(np.float32) if form.bias_correction else inputs
            integers = gptq(weight, seen, scale, span)
        if form.bias_correction:
            bias = corrected_bias(weight, integers, scale, bias, mean)
        return integers, scale, bias


def layer_inputs(
    graph: Graph, dataset: Dataset, rows: NDArray[np.int64], layers: list[str], progress: Progress | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return each named layer's inputs (rows, in) float32 on the videos `rows`, independent of their order.

    A layer that works on tokens has several rows per video.

    Raises:
        EdgeAfError: an activation is not finite.
    """
    wanted = {gemm.name: gemm.inputs[0] for gemm in graph.gemms() if gemm.name in layers}
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in wanted.values()}
    for values in run_batches(graph, dataset, rows, list(seen), progress):
        for name, parts in seen.items():
            parts.append(values[name])
    joined = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {layer: joined[name] for layer, name in wanted.items()}


def gptq(
    weight: NDArray[np.float32],
    inputs: NDArray[np.float32],
    scale: NDArray[np.float32],
    span: Span,
    *,
    damping: float = DAMPING,
) -> NDArray[np.int8]:
    """Round weights (out, in) to integers (out, in) int8 with a small error of the layer's outputs.

    Args:
        weight: float32.
        inputs: (rows, in) float32, in a deterministic order.
        scale: (out, blocks), one for each of `blocks` equal blocks of a row; (out,) or (out, 1) for one per row.
        span: range of the integers.
        damping: see `DAMPING`.

    Columns are rounded in descending order of their inputs' energy, so that the largest errors occur while many columns
    can still compensate for them.
    """
    features = weight.shape[1]
    x = _compact(inputs.astype(np.float64))
    videos = len(x)
    energy = np.einsum("ij,ij->j", x, x)
    ridge = damping * float(energy.mean()) or 1.0
    order = np.argsort(-energy, kind="stable")
    scale = scale.reshape(len(weight), -1)
    block_of = np.arange(features) // (features // scale.shape[1])
    gram = x @ x.T + ridge * np.eye(videos)
    residual = np.zeros((len(weight), videos), np.float32)
    integers = np.empty(weight.shape, np.int8)
    step = max(STEP, videos // 4)
    for start in range(0, features, step):
        # The first column to be rounded comes last, as in the recursion.
        columns = order[start : start + step][::-1]
        part = x[:, columns]
        gram -= part @ part.T
        left = ridge * np.linalg.solve(gram, part)
        factor = np.linalg.cholesky(part.T @ left + ridge * np.eye(len(columns)))
        diagonal = np.diag(factor)
        # (columns, out), where a column of weights is contiguous.
        target = np.linalg.solve(factor, (residual @ left.astype(np.float32)).T.astype(np.float64))
        wanted = weight[:, columns].T.astype(np.float32)
        shift = (target / diagonal[:, None]).astype(np.float32)
        reach = (factor / diagonal).astype(np.float32)
        errors = np.empty_like(wanted)
        for at in range(len(columns) - 1, -1, -1):
            own = scale[:, block_of[columns[at]]]
            aim = wanted[at] + shift[at] + reach[at + 1 :, at] @ errors[at + 1 :]
            rounded = np.clip(np.rint(aim / own), *span)
            integers[:, columns[at]] = rounded
            errors[at] = wanted[at] - rounded * own
        residual += errors.T @ part.T.astype(np.float32)
    return integers


def corrected_bias(
    weight: NDArray[np.float32],
    integers: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Correct the bias (out,) for the shift of the mean output by rounding, E[x Wᵀ] - E[x Ŵᵀ] = E[x] (W - Ŵ)ᵀ.

    Nagel et al. 2019, arXiv:1906.04721, section 4.2.

    Args:
        weight: (out, in), as trained.
        integers: (out, in).
        scale: (out,) or (out, in / block): integers * scale is Ŵ.
        bias: (out,), as trained.
        mean: (in,), mean of the layer's inputs.
    """
    missing = np.empty(len(weight))
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        missing[rows] = (weight[rows] - integers[rows] * spread(scale[rows], weight.shape[1])) @ mean
    return (bias + missing).astype(np.float32)


def _compact(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduce to at most as many rows as columns, with the same XᵀX."""
    if len(x) <= x.shape[1]:
        return x
    return np.asarray(np.linalg.qr(x, mode="r"), np.float64)
