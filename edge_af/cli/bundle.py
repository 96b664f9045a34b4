"""`edge-af bundle`: one file to ship an export in."""

from __future__ import annotations

from pathlib import Path

import click

from edge_af.console import say


@click.command()
@click.argument("artifacts", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    help="Only files of it; may be given several times.  [default: all]",
)  # fmt: skip
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["onnx", "tflite"]), help="Likewise.  [default: both]"
)
@click.option(
    "--sign", "key", type=click.Path(path_type=Path),
    help="OpenSSH's private key to sign with, or the public one of a key in an agent or on a token.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file.")
def command(
    artifacts: Path,
    out: Path,
    precisions: tuple[str, ...],
    formats: tuple[str, ...],
    key: Path | None,
    overwrite: bool,
) -> None:
    """Put files of ARTIFACTS, a folder that `edge-af export` wrote, into one file to ship.

    `edge-af verify` checks it on the other side and unpacks it.
    """
    from edge_af.bundle import kinds, write_bundle

    manifest = write_bundle(artifacts, out, precisions=precisions, formats=formats, key=key, overwrite=overwrite)
    signed = f"signed with {key}" if key is not None else "not signed"
    say(f"{out}: {manifest.model} {manifest.preset}, {kinds(manifest.files)}, {out.stat().st_size:,} bytes, {signed}")
