"""The signature over a merged folder: OpenSSF model signing with a key, offline.

What is signed is an in-toto statement of every file's SHA-256; its subject is the root digest, the SHA-256 over those
digests in the order of the files' paths. Source: https://github.com/ossf/model-signing-spec, version 1.0.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from registry.attest.keys import SigningKey
from registry.checkpoint import listed_files
from registry.errors import RegistryError
from registry.lineage import MANIFEST, Digests, read_manifest

if TYPE_CHECKING:
    from model_signing.hashing import Config
    from model_signing.manifest import Manifest

UNSIGNED = "none"
"""What stands where a signed model has its key's fingerprint."""


@dataclass(frozen=True)
class Hashed:
    """A model's files with their SHA-256, and one root digest of them all."""

    folder: Path
    files: Digests
    manifest: "Manifest" = field(repr=False, compare=False)

    @property
    def root(self) -> str:
        """The root digest, the same in every statement about the model, signed or not."""
        return root_digest(self.files)


def root_digest(files: Digests) -> str:
    """OpenSSF's root digest of (path, SHA-256) pairs in the order of `Hashed.files`."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()


def hash_model(folder: Path) -> Hashed:
    """Hash what the registry keeps of the merge in `folder`: its manifest and the files that it lists.

    Reads every byte, in pieces. Raises RegistryError when a file is missing or is not what the manifest says.
    """
    names = listed_files(folder)
    found = _hashed(folder, [folder / name for name in names])
    recorded = {name: str(entry["sha256"]) for name, entry in read_manifest(folder / MANIFEST)["files"].items()}
    for name, digest in found.files:
        if name != MANIFEST and recorded[name] != digest:
            raise RegistryError(
                f"{folder / name}: expected SHA-256 {recorded[name]}, found {digest}; "
                "it was changed after the merge: merge again"
            )
    return found


def _hashed(folder: Path, paths: Iterable[Path] | None = None, ignored: Iterable[Path] = ()) -> Hashed:
    from model_signing import hashing

    listed = None if paths is None else list(paths)
    links = listed is not None and any(path.is_symlink() for path in listed)
    config = hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False).set_allow_symlinks(links)
    manifest = config.hash(folder, files_to_hash=listed)
    files = tuple((one.identifier, one.digest.digest_hex) for one in manifest.resource_descriptors())
    return Hashed(folder, files, manifest)


def sign(model: Hashed, key: SigningKey, bundle: Path) -> None:
    """Write the signature over `model`, a Sigstore bundle, to `bundle`; no network is asked."""
    from model_signing import signing

    config = signing.Config().set_hashing_config(cast("Config", _Known(model)))
    with key.path() as path:
        config.use_elliptic_key_signer(private_key=path, password=cast("Any", key.password))
    config.sign(model.folder, bundle)


class _Known:
    """Hands the library what was hashed already."""

    def __init__(self, model: Hashed) -> None:
        self._model = model

    def hash(self, _folder: Path) -> "Manifest":
        return self._model.manifest


class _Asked:
    """Hashes a folder when the library asks for it, which it does once the signature itself holds."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.found: Hashed | None = None
        self._folder = folder
        self._ignored = [bundle.relative_to(folder)] if bundle.is_relative_to(folder) else []

    def hash(self, _folder: Path, files_to_hash: object = None) -> "Manifest":
        self.found = _hashed(self._folder, ignored=self._ignored)
        return self.found.manifest

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[str]) -> None:
        self._ignored += [Path(path) for path in paths]


def verify(folder: Path, bundle: Path, public_key: Path) -> None:
    """Raise RegistryError unless the key's owner signed exactly the files of `folder`.

    `bundle` is the signature's file and `public_key` a PEM file. The message names the first file, by path, that is
    changed, missing or added, or says that the signature is damaged or another key's.
    """
    from cryptography.exceptions import InvalidSignature

    folder, bundle = folder.resolve(), bundle.resolve()
    asked = _Asked(folder, bundle)
    verifier, signed = _verifier(public_key, asked), dict[str, str]()
    try:
        signed = _signed_files(bundle)
        verifier.verify(folder, bundle)
    except (InvalidSignature, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        if asked.found is None:
            raise _not_signed(bundle, public_key, error) from error
        raise RegistryError(f"{folder}: {_first_difference(signed, dict(asked.found.files))}") from error


def _verifier(public_key: Path, asked: _Asked) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, AttributeError, OSError, UnsupportedAlgorithm) as error:
        raise RegistryError(f"{public_key}: expected an elliptic-curve public key in PEM ({error})") from error
    return config.set_hashing_config(cast("Config", asked))


def _not_signed(bundle: Path, public_key: Path, error: Exception) -> RegistryError:
    if isinstance(error, OSError):
        return RegistryError(f"{error.filename or bundle}: cannot be read ({error.strerror})")
    reason = str(error).partition("\n")[0].strip(" .") or type(error).__name__
    return RegistryError(
        f"{bundle}: no valid signature by the key {public_key} ({reason}); "
        "the signature was changed, or another key made it: do not use this model"
    )


def _signed_files(bundle: Path) -> dict[str, str]:
    """The files that a bundle speaks of. Raises ValueError (or LookupError ...) when it is not as it was written."""
    from sigstore_models.bundle.v1 import Bundle

    held = json.loads(bundle.read_text(encoding="utf-8"))
    # Base64 has spare bits and a bundle spare fields, which no signature covers: both must be as the library writes.
    if json.loads(Bundle.from_dict(held).to_json()) != held:
        raise ValueError("the bundle is not as its signer wrote it")
    statement = json.loads(base64.b64decode(held["dsseEnvelope"]["payload"], validate=True))
    return {str(one["name"]): str(one["digest"]) for one in statement["predicate"]["resources"]}


def _first_difference(signed: Mapping[str, str], found: Mapping[str, str]) -> str:
    for name in sorted({*signed, *found}):
        if name not in found:
            return f"{name} is missing; it was signed as SHA-256 {signed[name]}"
        if name not in signed:
            return f"{name} was added; it is not among the files that were signed"
        if signed[name] != found[name]:
            return f"{name} was changed: signed as SHA-256 {signed[name]}, found {found[name]}"
    return "the folder cannot be hashed as it was signed"
