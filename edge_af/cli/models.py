"""`edge-af models`."""

from __future__ import annotations

import dataclasses
import json

import click

from edge_af.models.presets import PRESETS, param_count


@click.command()
@click.option("--classes", default=4716, show_default=True, type=click.IntRange(min=1), help="3862 for the 2018 data.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects as JSON.")
def command(classes: int, as_json: bool) -> None:
    """List the networks, their presets and their sizes."""
    listed = [
        (model, name, config, param_count(config, classes))
        for model, presets in PRESETS.items()
        for name, config in presets.items()
    ]
    if as_json:
        rows = [
            {"model": model, "preset": name, "classes": classes, "params": params, "config": dataclasses.asdict(config)}
            for model, name, config, params in listed
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(
        f"{'model':<16}{'preset':<8}{'parameters':>13}{'FP32 MB':>10}{'INT8 MB':>10}  shape, at {classes:,} classes"
    )
    for model, name, config, params in listed:
        shape = ", ".join(f"{field} {value}" for field, value in dataclasses.asdict(config).items())
        click.echo(f"{model:<16}{name:<8}{params:>13,}{params * 4 / 1e6:>10.1f}{params / 1e6:>10.1f}  {shape}")
