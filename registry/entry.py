"""One entry of a model's history: who made which version the champion, when and why; its digest is its identity."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from registry.errors import RegistryError
from registry.scorecard import canonical, sha256

SCHEMA = "widen-history/1"
FIRST = "0" * 64
"""What the first entry gives as the one before it."""

Kind = Literal["promotion", "override", "rollback", "adoption"]

SHORT = 12
"""How many digits of a digest a line for people shows."""


@dataclass(frozen=True)
class Entry:
    """A move of the champion alias, as it is recorded.

    `number` is its place in the log, which the registry assigns and which is no part of the digest. `from_version` is
    None when there was no champion. `merged_digest`, `decision_digest` and `verdict` are those of `to_version`; only
    the adoption of a version that widen did not register lacks them. For an override `verdict` is the one overridden.
    `at` is UTC in ISO 8601, to the second. `previous` is the digest of the entry before, or FIRST.
    """

    number: int
    kind: Kind
    name: str
    from_version: int | None
    to_version: int
    merged_digest: str | None
    decision_digest: str | None
    verdict: str | None
    by: str
    reason: str
    at: str
    flow_run: str | None
    previous: str

    def to_json(self) -> str:
        """Canonical JSON text, without the number."""
        held = asdict(self)
        del held["number"]
        return canonical({"schema": SCHEMA, **held})

    @classmethod
    def from_json(cls, number: int, text: str) -> "Entry":
        """The entry that `to_json` wrote, at place `number`. Raises RegistryError for any other text."""
        try:
            held = json.loads(text)
            schema = held.pop("schema")
            entry = cls(number=number, **held)
            if schema == SCHEMA and _typed(held) and entry.to_json() == text:
                return entry
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"not a record of widen's: {error!r}") from error
        raise RegistryError(f"not a record of widen's, or of another version (expected schema {SCHEMA})")

    def digest(self) -> str:
        """The sha256 of `to_json()`."""
        return sha256(self.to_json())

    def line(self) -> str:
        """The entry for a person, in one line."""
        start = "no champion" if self.from_version is None else f"version {self.from_version}"
        gate = "no verdict" if self.verdict is None else f"gate {self.verdict}"
        flow = f", flow run {self.flow_run}" if self.flow_run else ""
        moved = f"{start} -> version {self.to_version}"
        return f"{self.at} {self.kind}: {moved} ({gate}) by {self.by}: {self.reason}{flow}"


def short(digest: str) -> str:
    """A digest's first digits, for lines that people read."""
    return digest[:SHORT]


def _typed(held: Mapping[str, Any]) -> bool:
    texts = ("name", "by", "reason", "at", "previous")
    maybe = ("merged_digest", "decision_digest", "verdict", "flow_run")
    return (
        held["kind"] in get_args(Kind)
        and type(held["to_version"]) is int
        and (held["from_version"] is None or type(held["from_version"]) is int)
        and all(isinstance(held[key], str) for key in texts)
        and all(held[key] is None or isinstance(held[key], str) for key in maybe)
    )
