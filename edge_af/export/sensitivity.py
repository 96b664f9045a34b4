"""Measure each layer's sensitivity: the cost of quantizing that layer alone.

For every fully connected layer and recipe, only that layer is quantized. It is computed here, with weights and inputs
rounded as in the file's kernels; the layers after it run in ONNX Runtime. The figures are the signal-to-noise ratio of the
logits in dB, and the change of GAP@20 if the videos have labels. The signal is the variance of the logits about each
class's mean, because the mean is the same for all videos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset
from edge_af.export.graph import Graph, Node, keep_needed, to_onnx
from edge_af.export.quantize import Affine, Plan, dequantize, fused_relu
from edge_af.export.ranges import run_batches
from edge_af.files import write_json
from edge_af.metrics import gap_at_20
from edge_af.runtime.ort import onnxruntime_module, quiet_options

SENSITIVITY = "sensitivity.json"
SCHEMA_VERSION = 1
BEST_SNR_DB = 150.0
"""Stands for no noise; about the limit of float32."""
CHANNEL_BLOCK = 256
"""Inputs that ONNX Runtime's `MatMulNBits` quantizes together if the weights have no blocks."""


@dataclass(frozen=True)
class LayerSensitivity:
    """Sensitivity of one layer to one recipe in one format."""

    format: str
    recipe: str
    precision: str
    """Precision of this layer's weights: `int8`, `int4`, `int2` or `fp16`."""
    layer: str
    weight_bytes: int
    """Bytes of this layer's weights in the file, without scales."""
    snr_db: float
    """Signal-to-noise ratio of the logits when only this layer is quantized."""
    gap_at_20_drop: float | None
    """Loss of GAP@20 when only this layer is quantized; None without labels."""


class SensitivityTest:
    """The float network's activations on some videos, and the effect of quantizing a layer on its logits.

    Args:
        graph: clean graph whose output is the sigmoid of a fully connected layer.
        dataset: dataset with the videos.
        rows: the videos; their activations stay in memory, some 0.4 MB each for a network of 341 million parameters.
        with_labels: also measure GAP@20.
    """

    def __init__(self, graph: Graph, dataset: Dataset, rows: NDArray[np.int64], *, with_labels: bool) -> None:
        self._graph = graph
        self.data, self.videos = dataset.folder.resolve().name, len(rows)
        self._logits = logits_of(graph)
        self._tails: dict[str, Graph] = {}
        wanted = {self._logits}
        for gemm in graph.gemms():
            wanted.add(gemm.inputs[0])
            for cut in self._cuts(gemm.name):
                self._tails[cut] = behind(graph, cut, self._logits)
                wanted.update(name for name in self._tails[cut].inputs if name != cut)
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sorted(wanted)}
        for values in run_batches(graph, dataset, rows, list(parts)):
            for name, held in parts.items():
                held.append(values[name])
        self._seen = {name: np.concatenate(held) for name, held in parts.items()}
        exact = self._seen[self._logits].astype(np.float64)
        self._signal = float(np.square(exact - exact.mean(axis=0)).sum())
        self._labels = dataset.labels(np.sort(rows)) if with_labels else None
        self._gap = gap_at_20(self._seen[self._logits], self._labels) if self._labels is not None else None

    def rows(self, format: str, recipe: str, plan: Plan) -> Iterator[LayerSensitivity]:
        """Return a row for each layer of a plan, in the graph's order."""
        for gemm in self._graph.gemms():
            layer = plan.layers.get(gemm.name)
            if layer is None:
                continue
            logits = self.logits(gemm.name, plan, format)
            noise = float(np.square(logits.astype(np.float64) - self._seen[self._logits]).sum())
            snr = 10 * np.log10(self._signal / noise) if noise and self._signal else BEST_SNR_DB
            drop = self._gap - gap_at_20(logits, self._labels) if self._gap is not None else None  # type: ignore[arg-type]
            yield LayerSensitivity(
                format,
                recipe,
                layer.form.weights,
                gemm.name,
                layer.weight_bytes,
                round(min(float(snr), BEST_SNR_DB), 3),
                round(drop, 6) if drop is not None else None,
            )

    def logits(self, layer: str, plan: Plan, format: str) -> NDArray[np.float32]:
        """Return the logits (videos, classes) float32 if only `layer` is quantized as in `plan` in a file of `format`."""
        gemm = next(gemm for gemm in self._graph.gemms() if gemm.name == layer)
        relu = fused_relu(self._graph, gemm)
        cut = gemm.outputs[0] if relu is None else relu.outputs[0]
        outputs = fake_layer(self._seen[gemm.inputs[0]], gemm, cut, plan, format, self.videos)
        if relu is not None:
            outputs = np.maximum(outputs, 0)
        # In ONNX, a static layer's output stays float unless a ReLU follows: see `quantize_onnx`.
        held = cut in plan.tensors and (relu is not None or format == "tflite")
        if plan.layers[layer].form.activations == "static" and held:
            outputs = fake_affine(outputs, plan.tensors[cut])
        if cut == self._logits:
            return outputs
        tail = self._tails[cut]
        return _run(tail, {cut: outputs, **{name: self._seen[name] for name in tail.inputs if name != cut}})

    def _cuts(self, layer: str) -> list[str]:
        gemm = next(gemm for gemm in self._graph.gemms() if gemm.name == layer)
        relu = fused_relu(self._graph, gemm)
        cut = gemm.outputs[0] if relu is None else relu.outputs[0]
        return [] if cut == self._logits else [cut]


def logits_of(graph: Graph) -> str:
    """Return the tensor whose sigmoid is the network's output; the output itself without a sigmoid."""
    (output,) = graph.outputs
    producer = graph.producers()[output]
    return producer.inputs[0] if producer.op == "Sigmoid" else output


def behind(graph: Graph, tensor: str, output: str) -> Graph:
    """Return the part of a graph that computes `output` from `tensor`; its other sources become inputs."""
    made = {tensor}
    nodes = []
    for node in graph.nodes:
        if made.intersection(node.inputs):
            nodes.append(node)
            made.update(node.outputs)
    part = keep_needed(Graph(tuple(nodes), graph.constants, {}, {output: ()}))
    inside = {name for node in part.nodes for name in node.outputs}
    read = dict.fromkeys(name for node in part.nodes for name in node.inputs if name)
    return replace(part, inputs={name: () for name in read if name not in inside and name not in part.constants})


def fake_layer(
    x: NDArray[np.float32], gemm: Node, output: str, plan: Plan, format: str, videos: int
) -> NDArray[np.float32]:
    """Compute a layer's outputs (rows, out) in float, with weights and inputs rounded as in the kernels.

    Args:
        x: (rows, in) float32; a layer that works on tokens has several rows per video.
        gemm: the layer.
        output: its output, or its fused ReLU's.
        plan: a plan that quantizes the layer.
        format: `onnx` or `tflite`, which differ in quantization at run time.
        videos: number of videos in `x`.
    """
    made = plan.layers[gemm.name]
    form = made.form
    # In TFLite, a static layer whose output stays float becomes dynamic.
    if form.activations == "static" and (format == "onnx" or output in plan.tensors):
        x = fake_affine(x, plan.tensors[gemm.inputs[0]])
    elif form.runs_in_integers:
        if format == "tflite":
            x = fake_rows(x)
        elif form.weights in ("int4", "int2"):
            x = _fake_blocks(x, form.block or CHANNEL_BLOCK)
        else:
            x = fake_rows(x.reshape(videos, -1)).reshape(x.shape)
    return x @ dequantize(made).T + made.bias


def fake_affine(x: NDArray[np.float32], affine: Affine) -> NDArray[np.float32]:
    """Round values to INT8 and back."""
    q = np.clip(np.rint(x / np.float32(affine.scale)) + affine.zero_point, -128, 127)
    return ((q - affine.zero_point) * np.float32(affine.scale)).astype(np.float32)


def fake_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round rows to 256 steps of their range, widened to include zero, and back."""
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)
    scale = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    rounded: NDArray[np.float32] = ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    return rounded


def _fake_blocks(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Round blocks of each row to ±127 steps of their largest value, and back."""
    found = np.empty_like(x)
    for start in range(0, x.shape[1], block):
        part = x[:, start : start + block]
        scale = np.maximum(np.abs(part).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        found[:, start : start + block] = np.rint(part / scale) * scale
    return found


def worst_first(rows: list[LayerSensitivity]) -> list[str]:
    """Sort layers by cost: the largest loss of GAP@20 first, then the noisier."""
    return [row.layer for row in sorted(rows, key=lambda row: (-(row.gap_at_20_drop or 0.0), row.snr_db))]


def write_sensitivity(path: Path, data: str, videos: int, rows: list[LayerSensitivity]) -> None:
    """Write the table as JSON: `schema_version`, `data` (the dataset's name), `videos`, and the `rows`."""
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "data": data,
            "videos": videos,
            "rows": [dataclasses.asdict(row) for row in rows],
        },
    )


def summary(rows: list[LayerSensitivity]) -> list[str]:
    """Return a line for each format and recipe, with its most sensitive layer."""
    lines = []
    for format, recipe in dict.fromkeys((row.format, row.recipe) for row in rows):
        own = [row for row in rows if (row.format, row.recipe) == (format, recipe)]
        worst = next(row for row in own if row.layer == worst_first(own)[0])
        drop = "" if worst.gap_at_20_drop is None else f", GAP@20 {-worst.gap_at_20_drop:+.5f}"
        lines.append(f"{format} {recipe}: most sensitive {worst.layer}, {worst.snr_db:.1f} dB{drop}")
    return lines


def _run(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Run a part in ONNX Runtime, passing the weights, so that the session holds no second copy."""
    weights = {name: array for name, array in graph.constants.items() if array.dtype == np.float32}
    model = to_onnx(graph, weights_as_inputs=True)
    for value in (*model.graph.input, *model.graph.output):
        # Shapes are left open.
        value.type.tensor_type.ClearField("shape")
    session = onnxruntime_module().InferenceSession(
        model.SerializeToString(), quiet_options(), providers=["CPUExecutionProvider"]
    )
    (output,) = graph.outputs
    result: NDArray[np.float32] = session.run([output], {**weights, **feeds})[0]
    return result
