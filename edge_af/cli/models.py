"""`edge-af models`: list the networks, their presets and sizes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from edge_af.cli.build import verb
from edge_af.console import line_width, tell
from edge_af.errors import EdgeAfError, unknown
from edge_af.models.presets import PRESETS, ModelConfig
from edge_af.models.sizes import deployed_bytes, layer_sizes, multiply_adds, param_count
from edge_af.options import option
from edge_af.report.tables import aligned, wrapped

PRECISIONS = ("fp32", "int8", "int4")


@dataclass(frozen=True)
class ModelsOptions:
    """The options of `edge-af models`."""

    classes: int = option("Number of classes; the 2018 data has 3862.", default=4716, at_least=1)
    model: str | None = option("List this network only.", default=None, choices=PRESETS)
    preset: str | None = option("List this preset only, layer by layer.", default=None, complete="preset")
    json: bool = option("Print a list of objects as JSON, with layers.", default=False)


@verb(ModelsOptions, example="edge-af models --model attend-fusion --preset paper")
def command(options: ModelsOptions) -> None:
    """List the networks, their presets and their sizes: parameters, multiply-accumulates (MACs), and bytes once deployed.

    With --preset, list the layers.
    """
    listed = [
        (name, shape, config)
        for name, presets in PRESETS.items()
        for shape, config in presets.items()
        if options.model in (None, name) and options.preset in (None, shape)
    ]
    classes = options.classes
    if not listed:
        known = [shape for name, presets in PRESETS.items() if options.model in (None, name) for shape in presets]
        raise EdgeAfError(unknown("preset", str(options.preset), dict.fromkeys(known)))
    if options.json:
        tell(json.dumps([_as_dict(*entry, classes) for entry in listed], indent=2))
        return
    caption = f"At {classes:,} classes. MB: weights and biases, BatchNorm folded; INT4 in blocks of 32."
    head = ["model", "preset", "parameters", "MACs", *(f"{precision.upper()} MB" for precision in PRECISIONS), "shape"]
    rows = [head]
    for name, shape, config in listed:
        sizes = [f"{deployed_bytes(config, classes, precision) / 1e6:.1f}" for precision in PRECISIONS]
        fields = ", ".join(f"{field} {value}" for field, value in dataclasses.asdict(config).items())
        params, macs = param_count(config, classes), multiply_adds(config, classes)
        rows.append([name, shape, f"{params:,}", f"{macs:,}", *sizes, fields])
        if options.preset is not None:
            none = [""] * len(PRECISIONS)
            rows += [
                [f"  {layer.name}", "", f"{layer.params:,}", f"{layer.multiply_adds:,}", *none, layer.shape]
                for layer in layer_sizes(config, classes)
            ]
    width = line_width()
    for line in [*wrapped([caption], width), *aligned(rows, (0, 1, len(head) - 1), width)]:
        tell(line)


def _as_dict(model: str, preset: str, config: ModelConfig, classes: int) -> dict[str, object]:
    return {
        "model": model,
        "preset": preset,
        "classes": classes,
        "params": param_count(config, classes),
        "multiply_adds": multiply_adds(config, classes),
        "size_bytes": {precision: deployed_bytes(config, classes, precision) for precision in PRECISIONS},
        "config": dataclasses.asdict(config),
        "layers": [
            {"name": layer.name, "shape": layer.shape, "params": layer.params, "multiply_adds": layer.multiply_adds}
            for layer in layer_sizes(config, classes)
        ],
    }
