"""Which champion a merged model is compared with."""

from dataclasses import dataclass

from registry.decision import NO_CHAMPION
from registry.errors import NotRegistered, RegistryError
from registry.store import Registry, asking
from registry.versions import CHAMPION, MERGED, Version, by_alias, read_decision, with_tag


@dataclass(frozen=True)
class Incumbent:
    """The version to compare with, and the digest of its weights."""

    version: Version
    digest: str


def incumbent(registry: Registry, name: str, merged_digest: str) -> Incumbent | None:
    """The champion of `name`, or None when nothing was promoted yet.

    When the champion has the weights `merged_digest` itself, a merge is being run again: it is compared with what the
    champion was compared with then, so that the same question gets the same answer. Raises RegistryError when the
    champion was not registered by this program, its decision was changed since, or the version that it was compared
    with is gone; RegistryUnreachable when the registry does not answer.
    """
    try:
        with asking(registry) as client:
            champion = by_alias(client, registry, name, CHAMPION)
    except NotRegistered:  # no registry yet, or no such model in it
        return None
    if champion is None:
        return None
    if champion.tag(MERGED) != merged_digest:
        return Incumbent(champion, _digest(champion))
    against = read_decision(registry, champion).against
    if against in (None, NO_CHAMPION):
        return None
    before = with_tag(registry, name, MERGED, str(against))
    if before is None:
        raise RegistryError(
            f"{champion.uri}: it was judged against weights {against}, and {name} has no version with those any more; "
            "restore that version, or change the recipe"
        )
    return Incumbent(before, str(against))


def _digest(version: Version) -> str:
    digest = version.tag(MERGED)
    if digest is None:
        raise RegistryError(
            f"{version.uri}: it is the {CHAMPION} and has no tag {MERGED}, so it was not registered by widen and "
            f"cannot be compared with; point the alias {CHAMPION} at a version that was"
        )
    return digest
