"""Keys, and the signature over a merged folder: made and checked without a network, and every flipped byte is named."""

import base64
import hashlib
import json
import shutil
import socket
import stat
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from registry.attest.keys import PUBLIC_FILE, SigningKey, generate, read_key
from registry.attest.signature import hash_model, root_digest, sign, verify
from registry.errors import RegistryError
from registry.lineage import MANIFEST
from registry.registration import Evidence

Make = Callable[..., Evidence]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may open a connection."""

    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes | None = None) -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return read_key(str(generate(tmp_path / "keys")))


@pytest.fixture
def public(tmp_path: Path, key: SigningKey) -> Path:
    return tmp_path / "keys" / PUBLIC_FILE


@pytest.fixture
def signed(evidence: Make, key: SigningKey, tmp_path: Path) -> tuple[Path, Path]:
    """A merged folder and its signature."""
    folder, bundle = evidence().folder, tmp_path / "model.sig"
    sign(hash_model(folder), key, bundle)
    return folder, bundle


def payload(bundle: Path) -> dict[str, object]:
    held = json.loads(bundle.read_text())
    return dict(json.loads(base64.b64decode(held["dsseEnvelope"]["payload"])))


# Keys


def test_a_generated_pair_is_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    private = generate(tmp_path / "keys")
    before = private.read_bytes()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert generate(tmp_path / "keys") == private
    assert private.read_bytes() == before
    key = read_key(str(private))
    assert key.public_pem == (tmp_path / "keys" / PUBLIC_FILE).read_text()
    assert key.fingerprint == hashlib.sha256((tmp_path / "keys" / PUBLIC_FILE).read_bytes()).hexdigest()


def test_a_key_is_read_from_a_file_or_from_its_text_and_never_shown(tmp_path: Path) -> None:
    text = pem(ec.generate_private_key(ec.SECP384R1()), b"pass word")
    (tmp_path / "key.pem").write_text(text)
    from_file, from_text = read_key(str(tmp_path / "key.pem"), "pass word"), read_key(text, "pass word")
    assert from_file == from_text
    assert "PRIVATE" not in repr(from_file)
    assert "pass word" not in repr(from_file)


@pytest.mark.parametrize(
    ("setting", "password", "told"),
    [
        ("absent.pem", None, "cannot read the file that it names"),
        (".", None, "cannot read the file that it names"),
        ("MHcCAQEEIFsecret", None, "cannot read the file that it names"),
        ("\0", None, "cannot read the file that it names"),
        ("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----", None, "no private key in PEM;"),
        (pem(ed25519.Ed25519PrivateKey.generate()), None, "expected a key on the curve secp256r1.*Ed25519"),
        (pem(ec.generate_private_key(ec.SECP256K1())), None, "found secp256k1"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"right"), None, "WIDEN_SIGNING_KEY_PASSWORD"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"right"), "wrong", "not under this password"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "needless", "WIDEN_SIGNING_KEY_PASSWORD"),
    ],
    ids=[
        "absent",
        "folder",
        "bare",
        "nul",
        "junk",
        "ed25519",
        "k1",
        "no password",
        "wrong password",
        "needless password",
    ],
)
def test_a_key_that_cannot_sign_is_refused_without_being_shown(setting: str, password: str | None, told: str) -> None:
    with pytest.raises(RegistryError, match=f"^WIDEN_SIGNING_KEY: .*{told}") as caught:
        read_key(setting, password)
    for secret in ("secret", "right", "needless", "BEGIN"):
        assert secret not in str(caught.value).replace("private", "").replace("secp", "")


# The root digest


def test_the_root_digest_is_that_of_the_signature_and_needs_no_key(signed: tuple[Path, Path]) -> None:
    folder, bundle = signed
    model = hash_model(folder)
    (subject,) = payload(bundle)["subject"]  # type: ignore[misc]
    assert subject["digest"] == {"sha256": model.root}  # type: ignore[has-type]
    assert root_digest(model.files) == model.root
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name, _ in model.files} == on_disk
    assert dict(model.files)["config.json"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def test_only_what_the_registry_keeps_is_hashed(evidence: Make) -> None:
    folder = evidence().folder
    before = hash_model(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    (folder / "stray.txt").write_text("stray")
    linked = folder / "config.json"
    linked.rename(folder.parent / "elsewhere.json")
    linked.symlink_to(folder.parent / "elsewhere.json")
    assert hash_model(folder) == before


def test_a_file_that_changed_after_the_merge_is_not_signed(evidence: Make) -> None:
    folder = evidence().folder
    changed = (folder / "config.json").read_bytes().replace(b"128", b"129", 1)
    (folder / "config.json").write_bytes(changed)
    with pytest.raises(RegistryError, match=r"config\.json: expected SHA-256 .* changed after the merge"):
        hash_model(folder)


# Signing and checking


def test_a_signature_holds_for_its_folder_wherever_it_lies(
    signed: tuple[Path, Path], public: Path, tmp_path: Path
) -> None:
    folder, bundle = signed
    verify(folder, bundle, public)
    moved = shutil.copytree(folder, tmp_path / "moved")
    verify(moved, shutil.copy(bundle, moved / "model.sig"), public)
    (moved / "model.sig").unlink()
    (tmp_path / "link").symlink_to(moved)
    verify(tmp_path / "link", bundle, public)


def test_a_key_with_a_password_signs(evidence: Make, tmp_path: Path) -> None:
    key = read_key(pem(ec.generate_private_key(ec.SECP521R1()), b"secret"), "secret")
    (tmp_path / "public.pem").write_text(key.public_pem)
    folder = evidence().folder
    sign(hash_model(folder), key, tmp_path / "model.sig")
    verify(folder, tmp_path / "model.sig", tmp_path / "public.pem")


def test_one_flipped_byte_of_any_file_is_named(signed: tuple[Path, Path], public: Path) -> None:
    folder, bundle = signed
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    assert MANIFEST in {path.name for path in files}
    for path in files:
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(whole)
        with pytest.raises(RegistryError, match=f"{path.name} was changed: signed as SHA-256 [0-9a-f]{{64}}, found"):
            verify(folder, bundle, public)
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    verify(folder, bundle, public)


def test_one_flipped_byte_of_the_signature_is_found(
    signed: tuple[Path, Path], public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bundle = signed
    whole, model = bundle.read_bytes(), hash_model(folder)
    monkeypatch.setattr("registry.attest.signature._hashed", lambda *_, **__: model)
    verify(folder, bundle, public)
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        bundle.write_bytes(flipped)
        with pytest.raises(RegistryError, match="no valid signature by the key"):
            verify(folder, bundle, public)


def test_bits_that_no_signature_covers_are_found(evidence: Make, key: SigningKey, public: Path, tmp_path: Path) -> None:
    """Base64 with padding has spare bits: another letter there decodes to the same bytes."""
    folder, bundle, letters = evidence().folder, tmp_path / "model.sig", string.ascii_letters
    signature, model = "", hash_model(folder)
    while not (signature.endswith("=") and signature.rstrip("=")[-1] in "AEIMQUYcgkosw"):
        sign(model, key, bundle)
        signature = json.loads(bundle.read_text())["dsseEnvelope"]["signatures"][0]["sig"]
    last = signature.rstrip("=")[-1]
    other = signature.rstrip("=")[:-1] + letters[letters.index(last) + 1] + "=" * signature.count("=")
    assert base64.b64decode(other) == base64.b64decode(signature)
    bundle.write_text(bundle.read_text().replace(signature, other))
    with pytest.raises(RegistryError, match="the bundle is not as its signer wrote it"):
        verify(folder, bundle, public)


def test_missing_added_and_renamed_files_are_named(signed: tuple[Path, Path], public: Path) -> None:
    folder, bundle = signed
    (folder / "added.bin").write_text("x")
    with pytest.raises(RegistryError, match=r"added\.bin was added; it is not among the files that were signed"):
        verify(folder, bundle, public)
    (folder / "added.bin").unlink()
    (folder / ".gitattributes").write_text("x")
    with pytest.raises(RegistryError, match=r"\.gitattributes was added"):
        verify(folder, bundle, public)
    (folder / ".gitattributes").unlink()
    (folder / "config.json").rename(folder / "zzz.json")
    with pytest.raises(RegistryError, match=r"config\.json is missing; it was signed as SHA-256"):
        verify(folder, bundle, public)


def test_another_key_and_no_key_are_told(signed: tuple[Path, Path], public: Path, tmp_path: Path) -> None:
    folder, bundle = signed
    other = generate(tmp_path / "other").with_name(PUBLIC_FILE)
    with pytest.raises(RegistryError, match=r"no valid signature by the key .*Key mismatch.*another key made it"):
        verify(folder, bundle, other)
    (tmp_path / "README.md").write_text("no key")
    with pytest.raises(RegistryError, match=r"README\.md: expected an elliptic-curve public key in PEM"):
        verify(folder, bundle, tmp_path / "README.md")
    with pytest.raises(RegistryError, match=r"absent\.sig: cannot be read"):
        verify(folder, tmp_path / "absent.sig", public)


def test_the_library_s_own_command_checks_it(
    signed: tuple[Path, Path], public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    folder, bundle = signed
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    command += ["--signature", str(bundle), "--public_key", str(public)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr
    (folder / "config.json").write_text("{}")
    assert subprocess.run(command, capture_output=True, text=True).returncode != 0


def test_the_private_key_reaches_no_file(evidence: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from a pipe: no temporary file is made while it signs."""
    import tempfile

    def refuse(*_arguments: object, **_named: object) -> Iterator[None]:
        raise AssertionError("a temporary file was made")

    text = pem(ec.generate_private_key(ec.SECP256R1()))
    model, key = hash_model(evidence().folder), read_key(text)
    for name in ("mkstemp", "NamedTemporaryFile", "TemporaryDirectory"):
        monkeypatch.setattr(tempfile, name, refuse)
    out = tmp_path / "out"
    out.mkdir()
    sign(model, key, out / "model.sig")
    assert [path.name for path in out.iterdir()] == ["model.sig"]
    assert "PRIVATE" not in (out / "model.sig").read_text()
