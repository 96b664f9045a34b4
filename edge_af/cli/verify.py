"""`edge-af verify`: check a bundle's checksums and signature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_af.cli.build import path_argument, verb
from edge_af.console import say, tell, warn
from edge_af.options import option


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `edge-af verify`."""

    signers: Path | None = option("Trusted signers: OpenSSH's allowed_signers, or public keys.", default=None)
    out: Path | None = option("Folder to unpack to, once everything is verified.", default=None)
    overwrite: bool = option("Replace what that folder holds, if a bundle wrote all of it.", default=False)
    json: bool = option("Print JSON instead of text.", default=False)


@verb(
    VerifyOptions,
    bundle=path_argument("BUNDLE"),
    example="edge-af verify attend-fusion.edgeaf --signers allowed_signers --out artifacts/attend-fusion",
)
def command(bundle: Path, options: VerifyOptions) -> None:
    """Verify the checksums and the signature of BUNDLE, a file that `edge-af bundle` wrote.

    The exit code is 1 if a byte differs, or if no key in --signers signed the bundle.
    """
    from edge_af.bundle import kinds, verify_bundle

    found = verify_bundle(bundle, signers=options.signers, out=options.out, overwrite=options.overwrite)
    manifest = found.manifest
    if not found.is_signed:
        warn(f"{bundle}: not signed. It is intact, but its publisher is unverified.")
    elif found.fingerprint is None:
        warn(
            f"{bundle}: its signature was not checked, because ssh-keygen does not work here. It is intact, but its "
            "publisher is unverified."
        )
    elif options.signers is None:
        warn(f"{bundle}: signed by the key {found.fingerprint}, whose owner is unverified. Pass --signers.")
    if options.json:
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
        tell(f"{bundle}: {manifest.model} {manifest.preset}, {kinds(manifest.files)}: intact{by}")
    if options.out is not None:
        say(f"unpacked: {options.out}")
