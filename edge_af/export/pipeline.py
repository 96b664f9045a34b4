"""Export one trained network to checked files and their manifest."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_af.artifacts import (
    CARD,
    FORMATS,
    MANIFEST,
    ArtifactFile,
    Calibration,
    Gate,
    Manifest,
    replaceable,
    versions,
    write_manifest,
)
from edge_af.console import Progress, say, warn
from edge_af.data import Features, Widths, wrong_widths
from edge_af.errors import EdgeAfError
from edge_af.export import proof
from edge_af.export.gate import GateData, hold, measured_gap
from edge_af.export.graph import PROTOBUF_LIMIT, ROOM, Graph, save_onnx
from edge_af.export.quantize import NO_PAIR_LIMIT, Plan, WeightQuantizer, fitting, plan, to_nearest
from edge_af.export.ranges import (
    CalibrationData,
    Ranges,
    check_ranges,
    choose_videos,
    find_ranges,
    read_ranges,
    write_ranges,
)
from edge_af.export.recipes import Recipe
from edge_af.export.rounding import Rounder, layer_inputs
from edge_af.export.sensitivity import (
    SENSITIVITY,
    LayerSensitivity,
    SensitivityTest,
    summary,
    worst_first,
    write_sensitivity,
)
from edge_af.export.to_onnx import quantize_graph
from edge_af.export.to_tflite import NOTHING_QUANTIZED, write_tflite
from edge_af.export.trace import trace
from edge_af.files import check_utf8_name, sha256_file, staged_folder, write_atomic
from edge_af.models.run import Run
from edge_af.report.model_card import model_card
from edge_af.runtime.ort import PAIR_LIMIT

RANGES = "ranges.json"
OURS = ("*.onnx", "*.tflite", RANGES, SENSITIVITY, MANIFEST)
"""Files in an export folder, besides the model card, that `overwrite` may replace."""
SENSITIVITY_VIDEOS = 256
"""Default number of videos to measure each layer's sensitivity on."""
TRIED = 16
"""Number of videos on which each file's scores are compared with the network's."""


@dataclass(frozen=True)
class Wanted:
    """A file to write; `recipe` is None for FP32."""

    format: str
    recipe: Recipe | None
    integer_io: bool = False

    @property
    def precision(self) -> str:
        return "fp32" if self.recipe is None else self.recipe.precision


@dataclass(frozen=True)
class Written:
    """Facts about a file for the checks, which run after the graph has been freed."""

    item: Wanted
    path: Path
    weight_bytes: Mapping[str, int]
    """Bytes of each fully connected layer's weights in the file, without scales."""
    integer_layers: list[str]
    """Layers that must run in integers."""
    gate: Gate | None = None


@dataclass(frozen=True)
class ExportRequest:
    """An export task: formats, recipes and checks."""

    cpu: str
    """Processor of the quantized ONNX files, a key of `to_onnx.ACTIVATION_TYPE`."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Formats to write, keys of `artifacts.FORMATS`."""
    recipes: Mapping[str, tuple[Recipe, ...]] = field(default_factory=dict)
    """Recipes of the quantized files by format; FP32 files are always written."""
    calibration: CalibrationData | None = None
    """Calibration videos; recipes with static activations (unless `ranges_file` is given), `gptq` rounding or bias
    correction need them."""
    ranges_file: Path | None = None
    """`ranges.json` of an earlier export of this network, used instead of finding ranges."""
    gate: GateData | None = None
    """Accuracy gate of each quantized file."""
    sensitivity_videos: int = 0
    """Number of gate (or else calibration) videos to measure each layer's sensitivity on; 0 for none."""
    integer_io: bool = False
    """True for INT8 inputs and outputs of quantized TFLite files, whose layers must all be static."""
    license: str | None = None
    """Identifier of the weights' license for the model card; None to say that it is not stated."""
    overwrite: bool = False
    """True to replace the files of an earlier export."""


def export_network(network: nn.Module, run: Run, out: Path, request: ExportRequest) -> Manifest:
    """Write a network's files, `ranges.json`, `sensitivity.json`, `manifest.json` and `README.md` to `out`, atomically.

    Args:
        network: in eval mode, maps features to logits (n, classes). To save memory, it is
            freed after tracing if the caller keeps no reference.
        run: the network's run, recorded in the manifest and the model card.
        out: export folder to write.
        request: the export task.

    Raises:
        EdgeAfError: the calibration data is missing or of other classes, the network cannot be written, or `out` exists.
        GateFailed: a file's scores differ from the network's, a layer does not run in integers as planned, or a file
            loses more than the gate allows.
    """
    calibration, gate, cpu = request.calibration, request.gate, request.cpu
    wanted = [Wanted(format, None) for format in request.formats]
    wanted += [
        Wanted(format, recipe, request.integer_io and format == "tflite")
        for format in request.formats
        for recipe in request.recipes.get(format, ())
    ]
    check_utf8_name(out.absolute())  # Every file is loaded before it is kept, so the runtimes must be installed.
    wanted = _that_fit(wanted, network, gate)
    names = _file_names(run.model, wanted)
    static = [item.recipe for item in wanted if item.recipe is not None and item.recipe.needs_ranges]
    if static and calibration is None and request.ranges_file is None:
        raise EdgeAfError(f"recipe {static[0].name} finds ranges on training videos: pass --calibration-data.")
    by_inputs = [item.recipe for item in wanted if item.recipe is not None and item.recipe.needs_inputs]
    if by_inputs and calibration is None:
        raise EdgeAfError(
            f"recipe {by_inputs[0].name} rounds weights by layer inputs on training videos, which a ranges file does "
            "not hold: pass --calibration-data."
        )
    if gate is not None and gate.dataset.classes != run.classes:
        raise EdgeAfError(
            f"{gate.dataset.folder}: {gate.dataset.classes:,} classes, but the network has {run.classes:,}."
        )
    for source in (gate, calibration):
        if source is not None and source.dataset.widths != run.config.features:
            raise EdgeAfError(wrong_widths(str(source.dataset.folder), source.dataset.widths, run.config.features))
    if calibration is not None and calibration.dataset.classes != run.classes:
        raise EdgeAfError(
            f"{calibration.dataset.folder}: {calibration.dataset.classes:,} classes, but the network has "
            f"{run.classes:,}. Calibrate on the data it was trained on."
        )
    with staged_folder(out, replaceable(out, OURS), overwrite=request.overwrite) as stage:
        features = _videos_to_try(calibration, run.config.features)
        with torch.inference_mode():
            scores = torch.sigmoid(network(*map(torch.from_numpy, features))).numpy()
        graph = trace(network, run.classes, run.config.features)
        del network
        gc.collect()
        layers = [gemm.name for gemm in graph.gemms()]
        say(f"{run.model}: one graph of {len(graph.nodes)} operators, {len(layers)} fully connected layers")
        ranges, quantizer = None, to_nearest
        if static and request.ranges_file is not None:
            ranges = read_ranges(request.ranges_file)
            check_ranges(ranges, graph, request.ranges_file)
        elif static and calibration is not None:
            with Progress("finding ranges", len(calibration.rows), "videos") as progress:
                ranges = find_ranges(graph, calibration.dataset, calibration.rows, calibration.seed, progress)
        if ranges is not None:
            write_ranges(stage / RANGES, ranges)
        if by_inputs and calibration is not None:
            with Progress("finding layers' inputs", len(calibration.rows), "videos") as progress:
                quantizer = Rounder(layer_inputs(graph, calibration.dataset, calibration.rows, layers, progress))
        writer = Writer(graph, ranges, quantizer, cpu, _measuring(graph, request))
        written = writer.write(wanted, [stage / name for name in names])
        if writer.rows:
            assert writer.sensitivity is not None
            data, videos = writer.sensitivity.data, writer.sensitivity.videos
            write_sensitivity(stage / SENSITIVITY, data, videos, writer.rows)
            for line in summary(writer.rows):
                say(line)
        if gate is not None:
            written = writer.through_gate(written, gate)
        del writer
        # Free the graph before the checks load the files.
        del graph
        gc.collect()
        files = [_checked(one, cpu, layers, (features, scores)) for one in written]
        manifest = Manifest(
            model=run.model,
            preset=run.preset,
            classes=run.classes,
            params=run.params,
            f1_threshold=run.f1_threshold,
            class_names=run.class_names,
            calibration=_record(ranges, static),
            files=files,
            versions=versions("torch", "onnx", "onnxruntime", "ai-edge-litert", "numpy"),
            training_data=run.data,
        )
        write_manifest(stage, manifest)
        rounded_on = (
            (calibration.dataset.folder.resolve().name, len(calibration.rows)) if by_inputs and calibration else None
        )
        write_atomic(stage / CARD, model_card(manifest, run, request.license, rounded_on))
    return manifest


def _that_fit(wanted: list[Wanted], network: nn.Module, gate: GateData | None) -> list[Wanted]:
    """Drop the FP32 files if they would exceed the 2 GB limit of ONNX and TFLite files.

    Raises:
        EdgeAfError: no files are left, or the gate needs an FP32 file to compare with.
    """
    size = sum(parameter.numel() * 4 for parameter in network.parameters())
    if size <= PROTOBUF_LIMIT - ROOM:
        return wanted
    large = f"FP32 takes {size / 1e9:.1f} GB, and a single ONNX or TFLite file holds at most 2 GB"
    left = [item for item in wanted if item.recipe is not None]
    if not left:
        raise EdgeAfError(f"{large}. Export it quantized: --int8 or --int4.")
    if gate is not None:
        raise EdgeAfError(f"{large}; without an FP32 file, --max-gap-drop has nothing to compare with.")
    warn(f"{large}: it is left out.")
    return left


def _file_names(model: str, wanted: list[Wanted]) -> list[str]:
    """Name files `MODEL-PRECISION.FORMAT`, with the recipe's full name if two would be equal.

    Raises:
        EdgeAfError: two recipes have the same name.
    """

    def name(item: Wanted, what: str) -> str:
        return f"{model}-{what}.{item.format}"

    taken = Counter(name(item, item.precision) for item in wanted)
    names = []
    for item in wanted:
        what = item.precision
        if item.recipe is not None and taken[name(item, what)] > 1:
            what = item.recipe.name if item.recipe.name.startswith(what) else f"{what}-{item.recipe.name}"
        names.append(name(item, what))
    if twice := [one for one, times in Counter(names).items() if times > 1]:
        raise EdgeAfError(f"two recipes would both be written to {twice[0]}: give their files different names.")
    return names


def _videos_to_try(calibration: CalibrationData | None, widths: Widths) -> Features:
    """Return features of a few training videos; without calibration data, random ones of the same spread."""
    if calibration is not None:
        return calibration.dataset.features(calibration.rows[:TRIED])
    random = np.random.default_rng(0)
    visual, audio = ((TRIED, widths.visual), 0.5), ((TRIED, widths.audio), 0.7)
    return Features(*(np.clip(random.normal(0, sd, shape), -2, 2).astype(np.float32) for shape, sd in (visual, audio)))


def _measuring(graph: Graph, request: ExportRequest) -> SensitivityTest | None:
    """Return the sensitivity test, on the gate's videos or else on the calibration's."""
    source, videos = request.gate or request.calibration, request.sensitivity_videos
    if source is None or (videos == 0 and request.gate is None):
        return None
    rows = choose_videos(np.sort(source.rows), videos or SENSITIVITY_VIDEOS, 0)
    return SensitivityTest(graph, source.dataset, rows, with_labels=request.gate is not None)


class Writer:
    """Writes the files of one graph and, on request, measures the cost of quantizing each layer."""

    def __init__(
        self,
        graph: Graph,
        ranges: Ranges | None,
        quantizer: WeightQuantizer,
        cpu: str,
        sensitivity: SensitivityTest | None,
    ) -> None:
        self._graph, self._ranges, self._quantizer, self._cpu = graph, ranges, quantizer, cpu
        self.sensitivity = sensitivity
        self.rows: list[LayerSensitivity] = []
        self._plan, self._plan_of = NOTHING_QUANTIZED, ("", False, 0)

    def write(self, wanted: list[Wanted], paths: list[Path]) -> list[Written]:
        """Write each file, in the order of `paths`."""
        written = []
        # Files of one recipe follow each other and share its plan, so that only one plan is in memory.
        for item, path in sorted(zip(wanted, paths, strict=True), key=lambda pair: self._key(pair[0])):
            made = self._planned(item)
            written.append(self._write(item, path, made))
            say(f"{path.name}: {path.stat().st_size:,} bytes")
            if item.recipe is not None and self.sensitivity is not None:
                with Progress(f"{path.name}: sensitivity", len(made.layers), "layers") as progress:
                    for row in self.sensitivity.rows(item.format, item.recipe.name, made):
                        self.rows.append(row)
                        progress.update()
        self.rows.sort(key=lambda row: (row.format, row.recipe))
        return sorted(written, key=lambda one: paths.index(one.path))

    def through_gate(self, written: list[Written], data: GateData) -> list[Written]:
        """Return the files after bringing each one's loss within the gate's limit.

        Raises:
            GateFailed: a file's loss stays too large, whichever layers return to float.
        """
        reference = {one.item.format: measured_gap(one.path, data) for one in written if one.item.recipe is None}
        return [
            one if one.item.recipe is None else self._hold(one, reference[one.item.format], data) for one in written
        ]

    def _hold(self, one: Written, reference: float, data: GateData) -> Written:
        item = one.item
        assert item.recipe is not None and self.sensitivity is not None
        measuring, recipe, made = self.sensitivity, item.recipe.name, self._planned(item)

        def order() -> list[str]:
            return worst_first(list(measuring.rows(item.format, recipe, made)))

        # With INT8 inputs and outputs, no layer can be float.
        found, kept = hold(
            one.path,
            reference,
            made,
            data,
            None if item.integer_io else order,
            lambda plan: write_file(self._graph, plan, item.format, one.path, self._cpu, item.integer_io),
        )
        say(f"{one.path.name}: GAP@20 {found.gap_at_20:.5f}, {-found.gap_at_20_drop:+.5f} against FP32")
        return replace(self._described(item, one.path, kept), gate=found)

    def _planned(self, item: Wanted) -> Plan:
        key = self._key(item)
        if key != self._plan_of:
            self._plan, self._plan_of = NOTHING_QUANTIZED, key
            if item.recipe is not None:
                self._plan = plan(
                    self._graph,
                    item.recipe,
                    self._ranges,
                    self._quantizer,
                    pair_limit=self._pair_limit(item),
                    everything=item.integer_io,
                )
                _say_what_blocks_do_not_fit(self._graph, item.recipe, self._plan)
        return self._plan

    def _key(self, item: Wanted) -> tuple[str, bool, int]:
        """Return a key that is equal for files with the same plan. `repr` keeps the order of the recipe's layer patterns,
        unlike the recipe's name and `==`."""
        return repr(item.recipe), item.integer_io, self._pair_limit(item)

    def _pair_limit(self, item: Wanted) -> int:
        """Return the file's `pair_limit`, see `plan`; `NO_PAIR_LIMIT` if it would change no layer."""
        if item.recipe is None or item.format != "onnx" or self._cpu != "x86-64":
            return NO_PAIR_LIMIT
        inputs = {gemm.name: self._graph.constants[gemm.inputs[1]].shape[1] for gemm in self._graph.gemms()}
        forms = [fitting(form, inputs[name]) for name, form in item.recipe.forms_of(list(inputs)).items()]
        integer = any(form.weights == "int8" and form.runs_in_integers for form in forms)
        return PAIR_LIMIT if integer else NO_PAIR_LIMIT

    def _write(self, item: Wanted, path: Path, made: Plan) -> Written:
        write_file(self._graph, made, item.format, path, self._cpu, item.integer_io)
        return self._described(item, path, made)

    def _described(self, item: Wanted, path: Path, made: Plan) -> Written:
        held = {gemm.name: self._graph.constants[gemm.inputs[1]].nbytes for gemm in self._graph.gemms()}
        held.update({name: layer.weight_bytes for name, layer in made.layers.items()})
        return Written(item, path, held, made.integer_layers)


def _say_what_blocks_do_not_fit(graph: Graph, recipe: Recipe, made: Plan) -> None:
    forms = recipe.forms_of([gemm.name for gemm in graph.gemms()])
    if other := [name for name, layer in made.layers.items() if forms[name].weights != layer.form.weights]:
        say(
            f"{recipe.name}: stored as INT8, because their inputs are not a multiple of the block size: {', '.join(other)}"
        )


def write_file(graph: Graph, made: Plan, format: str, path: Path, cpu: str, integer_io: bool = False) -> None:
    """Write a clean graph with a plan applied; for `cpu` and `integer_io` see `ExportRequest`.

    Raises:
        EdgeAfError: the graph cannot be written in this format.
    """
    if format == "tflite":
        write_tflite(graph, path, made, integer_io=integer_io)
    else:
        save_onnx(quantize_graph(graph, made, cpu) if made.layers else graph, path)


def _checked(
    written: Written,
    cpu: str,
    layers: list[str],
    tried: tuple[Features, NDArray[np.float32]],
) -> ArtifactFile:
    """Check a file, and return its entry for the manifest."""
    item, path = written.item, written.path
    difference = proof.largest_difference(path, *tried)
    if item.recipe is None:
        proof.check_agreement(path.name, difference)
    if item.format == "tflite":
        execution = proof.tflite_execution(path, layers)
    elif item.recipe is not None:
        execution = proof.onnx_execution(path, layers, cpu)
    else:
        # An FP32 file runs nothing in integers, and reading it back would write another copy of its weights.
        execution = proof.Execution((), tuple(layers))
    proof.check_integer(path.name, execution, written.integer_layers)
    if execution.undelegated:
        names = ", ".join(sorted(set(execution.undelegated)))
        warn(f"{path.name}: {len(execution.undelegated)} operators run in slower kernels outside XNNPACK: {names}")
    integer_bytes = sum(written.weight_bytes[layer] for layer in execution.integer_layers)
    return ArtifactFile(
        path=path.name,
        format=item.format,
        precision=item.precision,
        recipe=item.recipe.name if item.recipe is not None else None,
        size_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        cpu=cpu if item.recipe is not None and item.format == "onnx" else None,
        integer_layers=len(execution.integer_layers),
        float_layers=len(execution.float_layers),
        integer_share=integer_bytes / sum(written.weight_bytes.values()),
        undelegated=sorted(execution.undelegated),
        io="int8" if item.integer_io else "float32",
        max_difference=difference,
        gate=written.gate,
    )


def _record(ranges: Ranges | None, static: list[Recipe]) -> Calibration | None:
    if ranges is None:
        return None
    methods = dict.fromkeys(str(recipe.ranges) for recipe in static)
    return Calibration(ranges.data, ranges.videos, ranges.sha256, ", ".join(methods))
