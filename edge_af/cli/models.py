"""`edge-af models`."""

from __future__ import annotations

import dataclasses
import json

import click

from edge_af.console import tell
from edge_af.models.presets import PRESETS, ModelConfig
from edge_af.models.sizes import deployed_bytes, layer_sizes, multiply_adds, param_count

PRECISIONS = ("fp32", "int8", "int4")


@click.command()
@click.option("--classes", default=4716, show_default=True, type=click.IntRange(min=1), help="3862 for the 2018 data.")
@click.option("--model", type=click.Choice(list(PRESETS)), help="Only this network.")
@click.option("--preset", "preset_name", help="Only this preset, layer by layer.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects as JSON, layers included.")
def command(classes: int, model: str | None, preset_name: str | None, as_json: bool) -> None:
    """List the networks, their presets and what they cost: parameters, multiply-adds, bytes once deployed.

    With --preset, layer by layer.
    """
    listed = [
        (name, shape, config)
        for name, presets in PRESETS.items()
        for shape, config in presets.items()
        if model in (None, name) and preset_name in (None, shape)
    ]
    if not listed:
        known = [shape for name, presets in PRESETS.items() if model in (None, name) for shape in presets]
        raise click.UsageError(f"there is no preset {preset_name!r}; there are {', '.join(dict.fromkeys(known))}.")
    if as_json:
        tell(json.dumps([_as_dict(*entry, classes) for entry in listed], indent=2))
        return
    tell(f"At {classes:,} classes. Bytes of weights and biases with BatchNorm folded; INT4 in blocks of 32.")
    tell(
        f"{'model':<16}{'preset':<8}{'parameters':>13}{'multiply-adds':>15}"
        + "".join(f"{precision.upper() + ' MB':>10}" for precision in PRECISIONS)
        + "  shape"
    )
    for name, shape, config in listed:
        size = "".join(f"{deployed_bytes(config, classes, precision) / 1e6:>10.1f}" for precision in PRECISIONS)
        fields = ", ".join(f"{field} {value}" for field, value in dataclasses.asdict(config).items())
        tell(
            f"{name:<16}{shape:<8}{param_count(config, classes):>13,}{multiply_adds(config, classes):>15,}{size}  {fields}"
        )
        if preset_name is not None:
            for layer in layer_sizes(config, classes):
                tell(f"  {layer.name:<22}{layer.params:>13,}{layer.multiply_adds:>15,}  {layer.shape}")


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
