"""Where an input lies, in the words of each record: a URI, a package URL, a name on a model hub."""

import re
from urllib.parse import quote, urlsplit

from registry.lineage import SourceRecord

_HUB = "huggingface.co"
_SCP = re.compile(r"(?P<host>[\w.-]+@[\w.-]+):(?P<path>(?!//).+)")
_KEPT = "/:@~+,;=!$&'()*"


def uri(source: SourceRecord, file: str | None = None) -> str:
    """`git+REPOSITORY@COMMIT#PATH`, as SPDX writes a place under version control, or `file:PATH` of a local folder, a
    storage's own URL.

    With `file`, that file's own. A relative address stays one: it is meant from the workspace.
    """
    path = "/".join(part for part in (source.path.strip("/"), file) if part and part != ".")
    if source.repo is None and "://" in source.path:
        return quote(source.path.rstrip("/") + (f"/{file}" if file else ""), _KEPT + "%")
    if source.repo is None and _cached(source) == source.path:
        return f"hf://{quote(source.path, _KEPT)}@{source.commit}" + (f"/{quote(file, _KEPT)}" if file else "")
    if source.repo is None:
        start = "//" if source.path.startswith("/") else ""
        return f"file:{start}{'/' if start else ''}{quote(path, _KEPT)}"
    pinned = source.commit or source.rev
    address = f"git+{_address(source.repo)}" + (f"@{quote(pinned, _KEPT)}" if pinned else "")
    return f"{address}#{quote(path, _KEPT)}" if path else address


def _address(repo: str) -> str:
    if "://" in repo:
        return quote(repo, _KEPT + "?[]%")
    remote = _SCP.fullmatch(repo)
    if remote is not None:
        return f"ssh://{remote['host']}/{quote(remote['path'].lstrip('/'), _KEPT)}"
    return f"file://{quote(repo, _KEPT)}" if repo.startswith("/") else f"file:{quote(repo, _KEPT)}"


def hub_name(source: SourceRecord) -> str:
    """ORGANISATION/MODEL on the Hugging Face Hub, else repository and path, else the local path."""
    if source.repo is None:
        return _cached(source) or source.path
    name = _on_hub(source)
    if name is not None:
        return name
    return source.repo if source.path in (".", "") else f"{source.repo.rstrip('/')}/{source.path}"


def package_url(source: SourceRecord) -> tuple[str, str, str | None] | None:
    """(organisation, model, commit) of a model on the Hugging Face Hub, for `pkg:huggingface`; None elsewhere."""
    name = _on_hub(source) or _cached(source)
    if name is None:
        return None
    organisation, _, model = name.rpartition("/")
    return organisation, model, source.commit


def _cached(source: SourceRecord) -> str | None:
    """ORGANISATION/MODEL of one taken from the local cache, written so or by the cache's folder."""
    if source.repo is not None or source.commit is None:
        return None
    folder = source.path.rstrip("/").rpartition("/")[2]
    return folder.removeprefix("models--").replace("--", "/") if folder.startswith("models--") else source.path


def _on_hub(source: SourceRecord) -> str | None:
    parts = urlsplit(source.repo or "")
    if parts.hostname != _HUB or source.path not in (".", ""):
        return None
    return parts.path.strip("/").removesuffix(".git") or None
