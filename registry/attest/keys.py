"""The key that signs models: an elliptic-curve private key in PEM, read once and never shown."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import RegistryError
from registry.scorecard import sha256

VARIABLE, PASSWORD = "WIDEN_SIGNING_KEY", "WIDEN_SIGNING_KEY_PASSWORD"
PRIVATE_FILE, PUBLIC_FILE = "signing_key.pem", "public_key.pem"

CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that OpenSSF model signing takes
_LARGEST = 16_384  # bytes; a key is a few hundred, and a pipe holds 64 KiB


@dataclass(frozen=True)
class SigningKey:
    """A private key and its public half. `pem` and `password` are secret: they stand in no text about the key."""

    pem: bytes = field(repr=False)
    password: bytes | None = field(repr=False)
    public_pem: str

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the public key's PEM file, as `sha256sum` prints it and as the signature hints."""
        return sha256(self.public_pem)

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A path from which the private key can be read once: a pipe, so that it reaches no disk."""
        source, sink = os.pipe()
        try:
            with os.fdopen(sink, "wb") as end:
                end.write(self.pem)
            yield Path(f"/dev/fd/{source}")
        finally:
            os.close(source)


def read_key(setting: str, password: str | None = None) -> SigningKey:
    """The key that `setting` holds: PEM text, or the path of a PEM file; `password` opens an encrypted one.

    Raises RegistryError, without showing the setting, when there is no such file or no such key in it, when the
    password is missing, wrong or too much, and for another kind of key than the curves P-256, P-384 and P-521.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem, secret = _pem(setting), password.encode() if password else None
    try:
        key = load_pem_private_key(pem, secret)
    except TypeError as error:  # cryptography's answer to a password too few or too many
        raise _refused(f"{error}; set or unset {PASSWORD}") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = f"no private key in PEM{', or not under this password' if secret else ''}"
        raise _refused(f"{wrong}; {_advice()}") from None
    return SigningKey(pem, secret, _public_pem(key))


def _pem(setting: str) -> bytes:
    if "-----BEGIN" in setting:
        return setting.encode()
    try:
        with Path(setting).expanduser().open("rb") as file:
            return file.read(_LARGEST)
    except (OSError, ValueError, RuntimeError) as error:
        # The setting may be a key pasted without its first line: never repeat it.
        reason = getattr(error, "strerror", None) or "no path"
        raise _refused(f"cannot read the file that it names, which is not shown ({reason}); {_advice()}") from None


def _public_pem(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found = key.curve.name if isinstance(key, EllipticCurvePrivateKey) else type(key).__name__
    if found not in CURVES:
        raise _refused(f"expected a key on the curve {', '.join(CURVES)}, found {found}; {_advice()}")
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def _advice() -> str:
    return f"make one with `openssl ecparam -name prime256v1 -genkey -noout -out {PRIVATE_FILE}`"


def _refused(what: str) -> RegistryError:
    return RegistryError(f"{VARIABLE}: {what}")


def generate(folder: Path) -> Path:
    """A new key pair in `folder`, its private half for the owner's eyes alone (0600); a pair that is there is kept.

    Returns the private key's path.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = folder / PRIVATE_FILE
    if not private.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / PUBLIC_FILE).write_text(_public_pem(key))
    return private
