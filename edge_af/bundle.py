"""Bundles: an export packed into one signed file, and its verification.

A bundle is an uncompressed ZIP archive of `SHA256SUMS`, `SHA256SUMS.sig`, `manifest.json`, the model card `README.md` and the
exported files. `SHA256SUMS` has the format of `sha256sum` and covers the manifest, the card and the exported files. The
signature is OpenSSH's (`ssh-keygen -Y sign`, PROTOCOL.sshsig in openssh-portable) and covers `SHA256SUMS`. So `unzip`,
`ssh-keygen` and `sha256sum` can verify a bundle without edge-af. The same files always give the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from edge_af.artifacts import (
    CARD,
    FORMATS,
    MANIFEST,
    ArtifactFile,
    Manifest,
    has_card,
    read_manifest,
    replaceable,
    write_manifest,
)
from edge_af.console import Progress
from edge_af.errors import EdgeAfError, GateFailed
from edge_af.files import atomic_path, explain_os_errors, sha256_file, staged_folder

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
NAMESPACE = "edge-af"
"""Namespace of the signature: a signature by the same key for another purpose is refused."""
OURS = (MANIFEST, "*.onnx", "*.tflite")
"""Files that a bundle may hold besides the model card, and that `--overwrite` may replace when unpacking."""

_BLOCK = 1 << 20
_MOST_BYTES = 1 << 24
"""Size limit of entries read into memory; a manifest with 4,716 class names needs a tenth of it."""
_MOST_ENTRIES = 1000
_LOCAL = struct.Struct("<4s22xHH")
"""Local header of a ZIP entry: its magic number and the lengths of the name and the extra field."""
_CENTRAL_BYTES, _END_BYTES, _END64_BYTES = 46, 22, 56 + 20
_LINE = re.compile(r"([0-9a-f]{64})  (?!\.\.?$)([^/\\\0\n]+)")
_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+ AAAA")


@dataclass(frozen=True)
class Verified:
    """Contents of a bundle that passed verification."""

    manifest: Manifest
    fingerprint: str | None
    """Fingerprint of the signing key, as `SHA256:…`; None if it is unsigned, or `ssh-keygen` is missing."""
    signer: str | None
    """Name of that key in the signers file; None without one."""
    is_signed: bool


def write_bundle(
    folder: Path,
    out: Path,
    *,
    precisions: Sequence[str] = (),
    formats: Sequence[str] = (),
    key: Path | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Pack an export folder into the bundle `out`, atomically.

    Args:
        folder: export folder.
        out: file to write.
        precisions: pack only these, such as `int8`; empty for all.
        formats: pack only these, keys of `artifacts.FORMATS`; empty for all.
        key: OpenSSH private key to sign with, or the public key of one in an agent or on a token; None for no
            signature.
        overwrite: replace `out`.

    Returns: the bundle's manifest, which lists the packed files.

    Raises:
        EdgeAfError: the folder is not an export, has no such file or a damaged one, `out` exists, or signing failed.
    """
    if folder.is_file():
        raise EdgeAfError(f"{folder}: a file; name the folder that `edge-af export` wrote.")
    manifest = read_manifest(folder)
    chosen = [
        file
        for file in manifest.files
        if (not precisions or file.precision in precisions) and (not formats or file.format in formats)
    ]
    if not chosen:
        held = ", ".join(file.path for file in manifest.files) or "nothing"
        raise EdgeAfError(f"{folder}: no such file among those exported; it holds {held}.")
    if out.exists() and not overwrite:
        raise EdgeAfError(f"{out}: already exists. Choose another name, or pass --overwrite.")
    if odd := next((file.path for file in chosen if not _LINE.fullmatch("0" * 64 + "  " + file.path)), None):
        raise EdgeAfError(
            f"{folder / MANIFEST}: a file called {odd!r} cannot be bundled; files lie beside their manifest."
        )
    manifest = dataclasses.replace(manifest, files=chosen)
    with tempfile.TemporaryDirectory(prefix="edge-af-bundle-") as temporary, atomic_path(out) as new:
        place = Path(temporary)
        write_manifest(place, manifest)
        described = [MANIFEST]
        if has_card(folder):
            shutil.copyfile(folder / CARD, place / CARD)
            described.append(CARD)
        sums = {name: sha256_file(place / name) for name in described} | {file.path: file.sha256 for file in chosen}
        (place / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
        heads = [SUMS, *described]
        if key is not None:
            _sign(place / SUMS, key)
            heads.insert(1, SIGNATURE)
        total = sum(file.size_bytes for file in chosen)
        with zipfile.ZipFile(new, "w") as archive, _Bytes("bundle", total) as progress:
            for name in heads:
                _add(archive, name, place / name)
            for file in chosen:
                if _add(archive, file.path, folder / file.path) != file.sha256:
                    raise EdgeAfError(
                        f"{folder / file.path}: changed or damaged: its SHA-256 is not the one in {MANIFEST}. Export again."
                    )
                progress.count(file.size_bytes)
    return manifest


def verify_bundle(
    path: Path, *, signers: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> Verified:
    """Verify a bundle's checksums and signature; with `out`, unpack it there after everything has passed.

    Args:
        path: the bundle.
        signers: trusted keys: an OpenSSH `allowed_signers` file (ssh-keygen(1)), or public keys as in `id_ed25519.pub`.
        out: folder to create.
        overwrite: replace what `out` holds.

    Raises:
        GateFailed: an entry is damaged, the signature does not match, or none of `signers` signed it.
        EdgeAfError: the file is not a bundle, `signers` cannot be read, or `out` cannot be written.
    """
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except FileNotFoundError:
            raise EdgeAfError(f"{path}: no such file.") from None
        except IsADirectoryError:
            raise EdgeAfError(f"{path}: a folder; name the file that `edge-af bundle` wrote.") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise EdgeAfError(f"{path}: not a bundle of edge-af, or cut off: {error}.") from None
        sums = _sums(archive, path)
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-af-verify-")))
        # The signature comes first, so that unsigned content is not parsed.
        fingerprint, signer, is_signed = _signed(archive, path, temporary, signers)
        folder = (
            stack.enter_context(staged_folder(out, replaceable(out, OURS), overwrite=overwrite))
            if out is not None
            else None
        )
        total = sum(archive.getinfo(name).file_size for name in sums)
        with _Bytes("verify", total) as progress:
            for name, digest in sums.items():
                target = temporary if name == MANIFEST else folder
                if _extracted(archive, path, name, target) != digest:
                    raise GateFailed(
                        f"{path}: {name} is damaged: its SHA-256 is not the one in {SUMS}. Copy the bundle again."
                    )
                progress.count(archive.getinfo(name).file_size)
        manifest = read_manifest(temporary)
        described = {name: sums[name] for name in (MANIFEST, CARD) if name in sums}
        if described | {file.path: file.sha256 for file in manifest.files} != sums:
            raise EdgeAfError(f"{path}: not a bundle of edge-af: {MANIFEST} and {SUMS} tell of other files.")
        if folder is not None:
            with explain_os_errors(folder):
                shutil.copyfile(temporary / MANIFEST, folder / MANIFEST)
        return Verified(manifest, fingerprint, signer, is_signed)


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    """Store a file with a fixed date; return its SHA-256."""
    entry, digest = zipfile.ZipInfo(name), hashlib.sha256()
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    try:
        source = path.open("rb")
    except OSError as error:
        raise EdgeAfError(f"{path}: named in {MANIFEST} and cannot be read ({error.strerror}). Export again.") from None
    with source, archive.open(entry, "w", force_zip64=path.stat().st_size >= 2**31) as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _sums(archive: zipfile.ZipFile, path: Path) -> dict[str, str]:
    """Return the SHA-256 of each entry from `SHA256SUMS` after checking that it lists exactly the entries.

    Raises:
        EdgeAfError: the archive is not a bundle.
    """
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise EdgeAfError(f"{path}: not a bundle of edge-af: it has {len(entries):,} entries.")
    names = Counter(entry.filename for entry in entries)
    if SUMS not in names or MANIFEST not in names:
        raise EdgeAfError(f"{path}: a ZIP archive, and not a bundle of edge-af: it has no {SUMS} and {MANIFEST}.")
    for entry in entries:
        # Uncompressed entries cannot expand, and the hashed bytes are the bytes in the file.
        odd = entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size
        if odd or names[entry.filename] > 1:
            raise EdgeAfError(
                f"{path}: not a bundle of edge-af: its entry {entry.filename!r} is packed, or there twice."
            )
    try:
        _check_layout(archive, path)
    except OSError as error:
        raise EdgeAfError(f"{path}: not a bundle of edge-af, or cut off: {error}.") from None
    lines = _read(archive, path, SUMS).decode(errors="replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in matches if match is not None}
    ours = all(any(fnmatch(name, pattern) for pattern in (*OURS, CARD)) for name in sums)
    if not ours or len(sums) != len(lines) or {*names} - {SUMS, SIGNATURE} != {*sums}:
        raise EdgeAfError(
            f"{path}: not a bundle of edge-af: {SUMS} does not tell of just the entries that there are, or of other files."
        )
    return sums


def _check_layout(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a file with bytes outside its entries: before, between or after them, in a comment or an extra field.

    The signature does not cover such bytes, and another program might read a different archive from them.

    Raises:
        EdgeAfError: the file has such bytes.
    """
    refused = EdgeAfError(
        f"{path}: not as `edge-af bundle` wrote it: there are bytes that belong to no entry. Get the bundle again."
    )
    file = archive.fp
    assert file is not None
    offset = directory = 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        file.seek(entry.header_offset)
        head = file.read(_LOCAL.size)
        if entry.header_offset != offset or len(head) < _LOCAL.size:
            raise refused
        name, extra = _LOCAL.unpack(head)[-2:]
        if file.read(name) != entry.filename.encode() or entry.comment or not _is_zip64(file.read(extra)):
            raise refused
        if not _is_zip64(entry.extra):
            raise refused
        offset += _LOCAL.size + name + extra + entry.compress_size
        directory += _CENTRAL_BYTES + name + len(entry.extra)
    # The directory is followed by its end record, which two ZIP64 records precede in a large file.
    rest = path.stat().st_size - offset - directory
    if archive.start_dir != offset or archive.comment or rest not in (_END_BYTES, _END_BYTES + _END64_BYTES):
        raise refused


def _is_zip64(extra: bytes) -> bool:
    """Return True if an extra field is empty or the ZIP64 one for sizes beyond 4 GB."""
    return not extra or (extra[:2] == b"\x01\0" and len(extra) == 4 + int.from_bytes(extra[2:4], "little") <= 32)


@contextmanager
def _damage(path: Path, name: str) -> Iterator[None]:
    """Turn the archive's own checksum errors into GateFailed."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError) as error:
        raise GateFailed(f"{path}: {name} is damaged: {error}. Copy the bundle again.") from None


def _read(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise EdgeAfError(f"{path}: not a bundle of edge-af: its {name} is too large.")
    with _damage(path, name):
        return archive.read(name)


def _extracted(archive: zipfile.ZipFile, path: Path, name: str, folder: Path | None) -> str:
    """Return the SHA-256 of an entry; also write it to `folder` if given."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        target = None
        if folder is not None:
            stack.enter_context(explain_os_errors(folder / name))
            target = stack.enter_context((folder / name).open("wb"))
        with _damage(path, name), archive.open(name) as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                if target is not None:
                    target.write(block)
    return digest.hexdigest()


def _sign(path: Path, key: Path) -> None:
    """Sign a file into `NAME.sig` beside it. `ssh-keygen` asks for the passphrase."""
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)])
    if done is None:
        raise EdgeAfError(f"--sign {_NEEDED}")
    if done.returncode:
        raise EdgeAfError(f"{key}: cannot sign with this key: {_last(done)}")


def _signed(
    archive: zipfile.ZipFile, path: Path, folder: Path, signers: Path | None
) -> tuple[str | None, str | None, bool]:
    """Return the key's fingerprint, the signer's name, and whether the bundle is signed.

    Raises:
        GateFailed: the signature does not match or is not by one of `signers`, or is missing although `signers` are
            given.
        EdgeAfError: `signers` cannot be read, or `ssh-keygen` does not run.
    """
    if SIGNATURE not in archive.namelist():
        if signers is not None:
            raise GateFailed(f"{path}: not signed, but it must be signed by a key in {signers}.")
        return None, None, False
    sums, signature = folder / SUMS, folder / SIGNATURE
    sums.write_bytes(_read(archive, path, SUMS))
    signature.write_bytes(_read(archive, path, SIGNATURE))
    looking = ["-n", NAMESPACE, "-s", str(signature)]
    done = _ssh_keygen(["-Y", "check-novalidate", *looking], sums)
    if done is None:
        if signers is not None:
            raise EdgeAfError(f"--signers {_NEEDED}")
        return None, None, True
    if done.returncode:
        raise GateFailed(f"{path}: the signature is not of what is in it: {_last(done)}")
    fingerprint = next(iter(re.findall(r"SHA256:\S+", done.stdout)), None)
    if signers is None:
        return fingerprint, None, True
    allowed, names = folder / "allowed_signers", _allow(signers)
    allowed.write_text("".join(f"{line}\n" for line in names), encoding="utf-8")
    found = _ssh_keygen(["-Y", "find-principals", "-s", str(signature), "-f", str(allowed)])
    for name in found.stdout.splitlines() if found is not None and found.returncode == 0 else []:
        done = _ssh_keygen(["-Y", "verify", "-f", str(allowed), "-I", name, *looking], sums)
        if done is not None and done.returncode == 0:
            line = next((line for line in names if line.startswith(f"{name} ")), "")
            return fingerprint, names.get(line) or name, True
    raise GateFailed(f"{path}: signed by the key {fingerprint}, and {signers} does not allow it for {NAMESPACE} now.")


def _allow(signers: Path) -> dict[str, str | None]:
    """Convert a signers file to lines of OpenSSH's `allowed_signers`; a plain public key is named by its comment.

    Raises:
        EdgeAfError: it cannot be read.
    """
    try:
        lines = signers.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeAfError(f"{signers}: cannot read these signers: {error}.") from None
    found: dict[str, str | None] = {}
    for number, line in enumerate(lines, 1):
        if _KEY.match(line):
            found[f"line-{number} {line}"] = " ".join(line.split()[2:]) or f"line {number} of {signers.name}"
        else:
            found[line] = None
    return found


def _ssh_keygen(arguments: Sequence[str], stdin: Path | None = None) -> subprocess.CompletedProcess[str] | None:
    """Run `ssh-keygen`. Returns None if it is missing, or refuses to run for a user without an account."""
    program = shutil.which("ssh-keygen")
    if program is None:
        return None
    with ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin is not None else None
        done = subprocess.run(
            [program, *arguments], stdin=source, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    # The exit code is then that of a wrong signature.
    return None if done.stderr.startswith("No user exists for uid") else done


_NEEDED = "needs the program `ssh-keygen` (Debian: apt install openssh-client), run by a user with an account."


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return f"{lines[-1].rstrip('.')}." if lines else f"status {done.returncode}."


class _Bytes(Progress):
    """Progress bar in megabytes, updated in bytes."""

    def __init__(self, label: str, total: int) -> None:
        super().__init__(label, max(1, round(total / 1e6)), "MB")
        self._bytes = 0

    def count(self, size: int) -> None:
        self.update(round((self._bytes + size) / 1e6) - round(self._bytes / 1e6))
        self._bytes += size


def kinds(files: Sequence[ArtifactFile]) -> str:
    """List the files in a few words: `INT8 ONNX, INT8 TFLite`."""
    return ", ".join(f"{file.precision.upper()} {FORMATS.get(file.format, file.format)}" for file in files)
