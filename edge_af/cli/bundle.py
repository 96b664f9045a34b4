"""`edge-af bundle`: pack an export folder into one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_af.cli.build import path_argument, verb
from edge_af.console import say
from edge_af.options import option


@dataclass(frozen=True)
class BundleOptions:
    """The options of `edge-af bundle`."""

    out: Path = option("Bundle to write.")
    precision: tuple[str, ...] = option(
        "Pack this precision only. Repeatable.",
        default=(),
        choices=("fp32", "fp16", "int8", "int4", "int2"),
        shown_default="all",
    )
    format: tuple[str, ...] = option(
        "Pack this format only. Repeatable.", default=(), choices=("onnx", "tflite"), shown_default="both"
    )
    sign: Path | None = option("OpenSSH private key to sign with, or the public key of one in an agent.", default=None)
    overwrite: bool = option("Replace the bundle.", default=False)


@verb(
    BundleOptions,
    artifacts=path_argument("ARTIFACTS"),
    example="edge-af bundle artifacts/attend-fusion --precision int8 --sign ~/.ssh/id_ed25519 --out attend-fusion.edgeaf",
)
def command(artifacts: Path, options: BundleOptions) -> None:
    """Pack ARTIFACTS, an export folder, into one file to ship.

    `edge-af verify` checks and unpacks it on the receiving machine.
    """
    from edge_af.bundle import kinds, write_bundle

    out, key = options.out, options.sign
    manifest = write_bundle(
        artifacts, out, precisions=options.precision, formats=options.format, key=key, overwrite=options.overwrite
    )
    signed = f"signed with {key}" if key is not None else "not signed"
    say(f"{out}: {manifest.model} {manifest.preset}, {kinds(manifest.files)}, {out.stat().st_size:,} bytes, {signed}")
