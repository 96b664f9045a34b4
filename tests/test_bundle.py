"""Bundles: contents, signatures, and rejection of damaged or foreign files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_af.artifacts import CARD, MANIFEST, read_manifest
from edge_af.bundle import SIGNATURE, SUMS, verify_bundle, write_bundle
from edge_af.cli import cli
from edge_af.errors import EdgeAfError, GateFailed
from edge_af.runtime import load

needs_openssh = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen here (Debian: apt install openssh-client)"
)


@pytest.fixture(scope="session")
def exported(exports: Path) -> Path:
    return exports / "attend-fusion"


WITHOUT_ACCOUNT = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
has_unshare = (
    shutil.which("unshare") and subprocess.run([*WITHOUT_ACCOUNT, "true"], capture_output=True).returncode == 0
)


@needs_openssh
@pytest.mark.skipif(not has_unshare, reason="no user namespaces here")
def test_who_has_no_account_is_told_so_and_not_that_a_signature_is_wrong(exported: Path, keys: Path, tmp_path: Path):
    """ssh-keygen refuses to run under a user ID without an account, as in a container started with `--user`."""
    bundle = tmp_path / "b.zip"
    write_bundle(exported, bundle, key=keys / "mine")
    verify = [*WITHOUT_ACCOUNT, sys.executable, "-m", "edge_af", "verify", str(bundle)]
    done = subprocess.run([*verify, "--signers", str(keys / "allowed")], capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "a user with an account" in done.stderr, done.stderr
    done = subprocess.run(verify, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys `mine` and `other`, and a signers file `allowed` that trusts `mine` as me@example.com."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name} key", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    key = (folder / "mine.pub").read_text()
    (folder / "allowed").write_text(f'# us\nme@example.com namespaces="edge-af,git" {key}')
    (folder / "for-git").write_text(f'me@example.com namespaces="git" {key}')
    (folder / "expired").write_text(f'me@example.com valid-before="20200101" {key}')
    return folder


@pytest.fixture
def signed(exported: Path, keys: Path, tmp_path: Path) -> Path:
    write_bundle(exported, tmp_path / "af.zip", key=keys / "mine")
    return tmp_path / "af.zip"


def edge_af(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def entries(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(bundle: Path, change: Callable[[dict[str, bytes]], None], **how: int) -> Path:
    """Return a copy of the bundle with changed entries, as a valid archive."""
    held = entries(bundle)
    change(held)
    path = bundle.with_name("changed.zip")
    with zipfile.ZipFile(path, "w", **how) as archive:  # type: ignore[arg-type]
        for name, data in held.items():
            archive.writestr(name, data)
    return path


@needs_openssh
def test_there_and_back(exported: Path, keys: Path, tmp_path: Path):
    bundle, out = tmp_path / "my af's.zip", tmp_path / "on the board"
    done = edge_af("bundle", exported, "--precision", "int8", "--sign", keys / "mine", "--out", bundle)
    assert done.exit_code == 0 and "INT8 ONNX, INT8 TFLite" in done.output, done.output
    done = edge_af("verify", bundle, "--signers", keys / "allowed", "--out", out, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["signer"] == "me@example.com" and found["fingerprint"].startswith("SHA256:")
    assert [file["path"] for file in found["files"]] == ["attend-fusion-int8.onnx", "attend-fusion-int8.tflite"]
    assert sorted(path.name for path in out.iterdir()) == [CARD, *(file["path"] for file in found["files"]), MANIFEST]
    assert (out / CARD).read_bytes() == (exported / CARD).read_bytes()
    for file in read_manifest(out).files:
        assert (out / file.path).read_bytes() == (exported / file.path).read_bytes()
        assert load(out / file.path).classes == found["classes"]
    with pytest.raises(EdgeAfError, match="a bundle is unpacked first: edge-af verify"):
        load(bundle)
    # The unpacked folder is a normal export.
    assert "already exists and is not empty" in str(edge_af("verify", bundle, "--out", out).exception)
    assert edge_af("verify", bundle, "--out", out, "--overwrite").exit_code == 0
    assert edge_af("bundle", out, "--out", tmp_path / "again.zip").exit_code == 0
    assert {name: data for name, data in entries(bundle).items() if name != SIGNATURE} == entries(
        tmp_path / "again.zip"
    )


@needs_openssh
def test_the_same_files_give_the_same_bytes(exported: Path, signed: Path, keys: Path, tmp_path: Path):
    os.utime(exported / MANIFEST, (1, 1))
    write_bundle(exported, tmp_path / "again.zip", key=keys / "mine")
    assert (tmp_path / "again.zip").read_bytes() == signed.read_bytes()


@needs_openssh
def test_it_is_checked_without_edge_af(signed: Path, keys: Path, tmp_path: Path):
    """Run the commands of docs/how-to/bundle.md."""
    folder = tmp_path / "plain"
    shutil.unpack_archive(signed, folder)
    with (folder / SUMS).open() as sums:
        command = ["ssh-keygen", "-Y", "verify", "-f", str(keys / "allowed"), "-I", "me@example.com", "-n", "edge-af"]
        subprocess.run([*command, "-s", SIGNATURE], cwd=folder, stdin=sums, check=True)
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True)


@needs_openssh
def test_whom_it_is_by(exported: Path, signed: Path, keys: Path, tmp_path: Path):
    assert verify_bundle(signed, signers=keys / "allowed").signer == "me@example.com"
    assert verify_bundle(signed, signers=keys / "mine.pub").signer == "mine key"
    both = tmp_path / "both"
    both.write_text((keys / "other.pub").read_text() + (keys / "mine.pub").read_text())
    assert verify_bundle(signed, signers=both).signer == "mine key"
    found = verify_bundle(signed)
    assert found.is_signed and found.signer is None and (found.fingerprint or "").startswith("SHA256:")
    assert "whose owner is unverified" in edge_af("verify", signed).output
    for name in ("other.pub", "for-git", "expired"):
        with pytest.raises(
            GateFailed, match=f"signed by the key SHA256:.*, and .*{name} does not allow it for edge-af"
        ):
            verify_bundle(signed, signers=keys / name)
    with pytest.raises(EdgeAfError, match="cannot read these signers"):
        verify_bundle(signed, signers=keys / "none")
    with pytest.raises(EdgeAfError, match="cannot sign with this key"):
        write_bundle(exported, tmp_path / "x.zip", key=keys / "none")
    assert not (tmp_path / "x.zip").exists()


def test_only_a_model_card_travels(exported: Path, tmp_path: Path):
    folder, bundle, out = Path(shutil.copytree(exported, tmp_path / "export")), tmp_path / "af.zip", tmp_path / "out"
    (folder / CARD).write_text("notes of the user")
    write_bundle(folder, bundle, precisions=("int8",))
    verify_bundle(bundle, out=out)
    assert CARD not in entries(bundle) and not (out / CARD).exists()
    # Unpacking again deletes a card, but no other README.md.
    (out / CARD).write_text("notes of the user")
    with pytest.raises(EdgeAfError, match=r"holds 'README.md', which --overwrite would delete"):
        verify_bundle(bundle, out=out, overwrite=True)
    shutil.copyfile(exported / CARD, out / CARD)
    verify_bundle(bundle, out=out, overwrite=True)
    assert not (out / CARD).exists()


def test_unsigned(exported: Path, tmp_path: Path):
    bundle = tmp_path / "af.zip"
    write_bundle(exported, bundle, formats=("tflite",))
    done = edge_af("verify", bundle)
    assert done.exit_code == 0 and "not signed" in done.output and "FP32 TFLite, INT8 TFLite: intact" in done.output
    signers = tmp_path / "signers"
    signers.write_text("")
    done = edge_af("verify", bundle, "--signers", signers)
    assert isinstance(done.exception, GateFailed) and "not signed, but it must be signed by a key in" in str(
        done.exception
    )


def test_every_byte_counts(exported: Path, tmp_path: Path):
    """A single flipped bit in an entry is detected, and nothing is unpacked."""
    bundle, out = tmp_path / "af.zip", tmp_path / "out"
    write_bundle(exported, bundle, precisions=("int8",))
    whole, damaged = bundle.read_bytes(), tmp_path / "damaged.zip"
    with zipfile.ZipFile(bundle) as archive:
        starts = {entry.filename: (entry.header_offset, entry.file_size) for entry in archive.infolist()}
    for name, (start, size) in starts.items():
        place = start + 30 + len(name)
        for at in (place, place + size // 2, place + size - 1):
            damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(EdgeAfError, match="damaged"):
                verify_bundle(damaged, out=out)
            assert not out.exists()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdgeAfError, match="not a bundle of edge-af, or cut off"):
        verify_bundle(damaged)
    assert not list(tmp_path.glob(".out*"))


SWAPPED = bytes.maketrans(b"01", b"10")


@needs_openssh
@pytest.mark.parametrize(
    "change, message",
    [
        # A file and its checksum changed together: the signature does not match.
        (lambda held: held.update({SUMS: held[SUMS].translate(SWAPPED)}), "the signature is not of what is in it"),
        (lambda held: held.update({SIGNATURE: b"no signature"}), "the signature is not of what is in it"),
        (lambda held: held.update({"attend-fusion-int8.onnx": b"another"}), "attend-fusion-int8.onnx is damaged"),
        (lambda held: held.update({MANIFEST: b"{}"}), "manifest.json is damaged"),
        (lambda held: held.update({CARD: b"another card"}), "README.md is damaged"),
        (lambda held: held.pop(CARD), "does not tell of just the entries"),
        (lambda held: held.update({"extra.sh": b"rm -rf"}), "does not tell of just the entries"),
        (lambda held: held.pop("attend-fusion-int8.onnx"), "does not tell of just the entries"),
        (lambda held: held.pop(SUMS), "has no SHA256SUMS"),
        (lambda held: held.pop(MANIFEST), "has no SHA256SUMS and manifest.json"),
    ],
)
def test_what_was_changed_on_the_way(signed: Path, change: Callable[[dict[str, bytes]], None], message: str):
    with pytest.raises(EdgeAfError, match=message):
        verify_bundle(rewritten(signed, change))


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/b", "a\\b", ".."])
def test_names_that_lead_elsewhere(exported: Path, tmp_path: Path, name: str):
    bundle = tmp_path / "af.zip"
    write_bundle(exported, bundle, precisions=("int8",))

    def change(held: dict[str, bytes]) -> None:
        held[name] = held.pop("attend-fusion-int8.onnx")
        held[SUMS] = held[SUMS].replace(b"attend-fusion-int8.onnx", name.encode())

    with pytest.raises(EdgeAfError, match="not a bundle of edge-af"):
        verify_bundle(rewritten(bundle, change), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not [*tmp_path.parent.rglob("escape")]


def test_it_holds_networks_and_nothing_else(exported: Path, tmp_path: Path):
    """A script is refused even if the checksums and the manifest list it."""
    bundle = tmp_path / "af.zip"
    write_bundle(exported, bundle, precisions=("int8",))

    def change(held: dict[str, bytes]) -> None:
        held["install.sh"] = held.pop("attend-fusion-int8.onnx")
        held[MANIFEST] = held[MANIFEST].replace(b"attend-fusion-int8.onnx", b"install.sh")
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in held.items() if name != SUMS}
        held[SUMS] = "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()

    with pytest.raises(EdgeAfError, match="or of other files"):
        verify_bundle(rewritten(bundle, change), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_that_are_no_bundles(exported: Path, tmp_path: Path):
    bundle = tmp_path / "af.zip"
    write_bundle(exported, bundle, precisions=("int8",))
    with pytest.raises(EdgeAfError, match="is packed, or there twice"):
        verify_bundle(rewritten(bundle, lambda held: None, compression=zipfile.ZIP_DEFLATED))
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name, data in [*entries(bundle).items(), (MANIFEST, b"{}")]:
            archive.writestr(name, data)
    with pytest.raises(EdgeAfError, match="is packed, or there twice"):
        verify_bundle(twice)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("README", "hello")
    (tmp_path / "other.zip").write_bytes(other.getvalue())
    with pytest.raises(EdgeAfError, match="and not a bundle of edge-af"):
        verify_bundle(tmp_path / "other.zip")
    for path, message in ((tmp_path, "a folder; name the file"), (tmp_path / "none", "no such file")):
        with pytest.raises(EdgeAfError, match=message):
            verify_bundle(path)


def test_what_cannot_be_bundled(exported: Path, tmp_path: Path):
    out = tmp_path / "af.zip"
    with pytest.raises(EdgeAfError, match="a file; name the folder"):
        write_bundle(exported / "attend-fusion-int8.onnx", out)
    with pytest.raises(EdgeAfError, match=r"no such file among those exported; it holds attend-fusion-fp32.onnx"):
        write_bundle(exported, out, precisions=("int4",))
    folder = Path(shutil.copytree(exported, tmp_path / "export"))
    with (folder / "attend-fusion-int8.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(EdgeAfError, match="changed or damaged"):
        write_bundle(folder, out)
    (folder / "attend-fusion-int8.onnx").unlink()
    with pytest.raises(EdgeAfError, match="cannot be read"):
        write_bundle(folder, out)
    assert not out.exists() and [path.name for path in tmp_path.iterdir()] == ["export"]
    write_bundle(exported, out)
    with pytest.raises(EdgeAfError, match="already exists"):
        write_bundle(exported, out)
    write_bundle(exported, out, overwrite=True)


@needs_openssh
def test_without_openssh(exported: Path, signed: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgeAfError, match="--sign needs the program `ssh-keygen`"):
        write_bundle(exported, tmp_path / "x.zip", key=keys / "mine")
    with pytest.raises(EdgeAfError, match="--signers needs the program `ssh-keygen`"):
        verify_bundle(signed, signers=keys / "allowed")
    found = verify_bundle(signed)
    assert found.is_signed and found.fingerprint is None


def _with_comment(data: bytes) -> bytes:
    return data[:-2] + (5).to_bytes(2, "little") + b"hello"


def _with_a_gap(data: bytes) -> bytes:
    """Insert bytes between the entries and the central directory, and correct its offset."""
    start = int.from_bytes(data[-6:-2], "little")
    end = data[-22:-6] + (start + 7).to_bytes(4, "little") + data[-2:]
    return data[:start] + b"between" + data[start:-22] + end


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"#!/bin/sh\n" + data,
        lambda data: data + b"behind",
        lambda data: data + data,
        _with_comment,
        _with_a_gap,
    ],
    ids=["in front", "behind", "twice", "comment", "between"],
)
def test_bytes_that_belong_to_no_entry_are_refused(
    tmp_path: Path, exported: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "b.zip"
    write_bundle(exported, path)
    verify_bundle(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(EdgeAfError, match=r"belong to no entry|not a bundle"):
        verify_bundle(path)


def test_many_entries_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for at in range(20_000):
            archive.writestr(f"{at}.onnx", b"")
        archive.writestr("SHA256SUMS", b"")
        archive.writestr("manifest.json", b"{}")
    with pytest.raises(EdgeAfError, match="20,002 entries"):
        verify_bundle(path)
