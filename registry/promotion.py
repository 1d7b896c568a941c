"""Moving the alias `champion`, only as far as a gate's decision carries it."""

from dataclasses import dataclass

from registry.decision import Decision, Verdict
from registry.errors import PromotionRefused
from registry.store import Registry, asking
from registry.versions import CHAMPION, DECISION, MERGED, Version, by_alias, resolve


@dataclass(frozen=True)
class Promotion:
    """What became of the alias: whether it moved, from which version (None: there was no champion) and to which."""

    moved: bool
    from_version: int | None
    to_version: int


def promote(registry: Registry, name: str, version: int, decision: Decision) -> Promotion:
    """Make `version` the champion of `name`. A second call changes nothing and says so.

    Raises PromotionRefused when the decision is not a PASS or is not the one that `version` was registered with,
    NotRegistered when there is no such version, RegistryUnreachable when the registry does not answer.
    """
    if not decision.passed:
        lost = "; ".join(result.text for result in decision.results if result.verdict is not Verdict.PASS)
        raise PromotionRefused(f"{name} version {version} is not promoted: the gate says {decision.verdict}: {lost}")
    with registry.lock():
        found = resolve(registry, f"{name}/{version}").version
        _require_same_decision(found, decision)
        with asking(registry) as client:
            before = by_alias(client, registry, name, CHAMPION)
            if before is not None and before.version == version:
                return Promotion(False, version, version)
            client.set_registered_model_alias(name, CHAMPION, str(version))
    return Promotion(True, None if before is None else before.version, version)


def _require_same_decision(version: Version, decision: Decision) -> None:
    wanted = {MERGED: decision.merged_digest, DECISION: decision.digest()}
    for tag, expected in wanted.items():
        if version.tag(tag) != expected:
            raise PromotionRefused(
                f"{version.uri} is not promoted: it was registered with {tag} {version.tag(tag)}, this decision has "
                f"{expected}; register the merge with this decision first"
            )
