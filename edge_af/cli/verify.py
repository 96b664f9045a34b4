"""`edge-af verify`: whether a bundle is whole, and whose it is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge_af.console import say, tell, warn


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--signers", type=click.Path(path_type=Path),
    help="Whom to trust: OpenSSH's allowed_signers, or public keys as in id_ed25519.pub.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Unpack to this folder, once all of it has passed.")
@click.option("--overwrite", is_flag=True, help="Replace what that folder holds, if all of it came from here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(bundle: Path, signers: Path | None, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Check every byte of BUNDLE, a file that `edge-af bundle` wrote, and its signature.

    Exit status 1 where a byte is not as it was, or where nobody in --signers has signed it.
    """
    from edge_af.bundle import kinds, verify_bundle

    found = verify_bundle(bundle, signers=signers, out=out, overwrite=overwrite)
    manifest = found.manifest
    if not found.is_signed:
        warn(f"{bundle}: not signed. It is whole, and may be by anybody.")
    elif found.fingerprint is None:
        warn(
            f"{bundle}: its signature was not checked (no working ssh-keygen here). It is whole, but may be by anybody."
        )
    elif signers is None:
        warn(f"{bundle}: signed by the key {found.fingerprint}; whose that is was not asked. Pass --signers.")
    if as_json:
        value = {
            "bundle": bundle.name,
            "model": manifest.model,
            "preset": manifest.preset,
            "classes": manifest.classes,
            "params": manifest.params,
            "is_signed": found.is_signed,
            "fingerprint": found.fingerprint,
            "signer": found.signer,
            "files": [
                {name: getattr(file, name) for name in ("path", "format", "precision", "size_bytes", "sha256")}
                for file in manifest.files
            ],
        }
        tell(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        by = f", signed by {found.signer} ({found.fingerprint})" if found.signer is not None else ""
        tell(f"{bundle}: {manifest.model} {manifest.preset}, {kinds(manifest.files)}: whole{by}")
    if out is not None:
        say(f"unpacked: {out}")
