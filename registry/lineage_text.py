"""A lineage as text for a terminal."""

from collections.abc import Mapping
from types import MappingProxyType

from registry.lineage import Ancestor, Input, Lineage


def render(lineage: Lineage, registered: Mapping[str, str] = MappingProxyType({})) -> str:
    """The record for a terminal: plain lines, no colour, digests in full so that they can be compared.

    registered: by root digest, as which version a merge among the inputs is registered.
    """
    made, ran = lineage, lineage.provenance
    settings = ", ".join(f"{name} {value}" for name, value in made.asked.items())
    code = ran.commit + (" with local changes" if ran.dirty else "") if ran.commit else f"version {ran.version}"
    lines = [
        f"merged      {made.merged_digest}",
        f"verdict     {made.verdict} (decision {made.decision_digest})",
        *(f"            {clause}" for clause in made.clauses),
        f"recipe      {made.recipe} ({made.recipe_digest})",
        f"method      {made.method}: {settings}",
        *(line for entry in made.inputs for line in _input_lines(entry, registered)),
        f"validation  {made.validation_digest or 'none recorded'}",
        f"engine      {made.engine}",
        f"code        {code}",
        f"ran on      {ran.python}, {ran.platform}",
        f"packages    {', '.join(f'{name} {version}' for name, version in ran.packages)}",
        f"flow run    {made.flow_run or 'none'}",
    ]
    return "\n".join(lines)


def _input_lines(entry: Input, registered: Mapping[str, str]) -> list[str]:
    source = entry.source
    where = source.path
    if source.repo is not None:
        where = f"{source.path} in {source.repo} at {source.rev or 'HEAD'} (commit {source.commit or 'unknown'})"
    elif source.commit is not None:
        where = f"{source.path} at {source.rev or 'HEAD'} (commit {source.commit})"
    files = (f"            {digest}  {name}" for name, digest in entry.files)
    lines = [f"{entry.role:<11} {entry.name}: {where}", f"            {entry.digest}  all of it", *files]
    if entry.merged_digest is not None:
        lines.append(f"            {_made_by(entry.recipe, entry.merged_digest, registered)}")
        lines += [line for one in entry.made_from for line in _ancestor_lines(one, registered, 1)]
    if source.license is not None:
        lines.append(f"            licence {source.license}")
    return lines


def _ancestor_lines(one: Ancestor, registered: Mapping[str, str], depth: int) -> list[str]:
    place = " " * 12 + "  " * depth
    lines = [f"{place}{one.role} {one.name}: {one.digest}"]
    if one.merged_digest is not None:
        lines.append(f"{place}{_made_by(one.recipe, one.merged_digest, registered)}")
    return [*lines, *(line for inner in one.inputs for line in _ancestor_lines(inner, registered, depth + 1))]


def _made_by(recipe: str | None, digest: str, registered: Mapping[str, str]) -> str:
    version = f", registered as {registered[digest]}" if digest in registered else ""
    return f"itself the merge {recipe} ({digest}{version}) of"
