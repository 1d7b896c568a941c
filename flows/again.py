"""A registered merge made again, asked step by step: its recipe, its inputs, the merge. For `verify` and `restore`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.recipe import Recipe, load_recipe
from widen.errors import RecipeError, WidenError
from widen.vocabulary.request import BASE, TokenizerRequest

if TYPE_CHECKING:
    from registry.audit import Record
    from registry.lineage import Lineage
    from widen import Manifest

HOLDS, FAILS, ABSENT = "ok", "FAILED", "absent"


@dataclass(frozen=True)
class Again:
    """The manifest that was registered, and the same merge made once more in `folder`."""

    registered: "Manifest"
    made: "Manifest"
    folder: Path


@dataclass(frozen=True)
class Sources:
    """Where inputs are looked for: in `workspace`, or by name where they have moved to."""

    workspace: Path
    places: Mapping[str, str]

    @classmethod
    def of(cls, workspace: Path, said: tuple[str, ...]) -> "Sources":
        """From options NAME=PLACE. Raises RecipeError for what is not."""
        pairs = [one.partition("=") for one in said]
        wrong = [name for name, sign, place in pairs if not (name and sign and place)]
        if wrong:
            raise RecipeError(f"--source {wrong[0]}: expected NAME=PLACE, a repository's address or a folder")
        return cls(workspace, {name: place for name, _, place in pairs})


@dataclass
class Checks:
    """What was asked, printed as it is answered; failures are remembered and do not end the others."""

    failed: list[str] = field(default_factory=list)

    def ask(self, name: str, question: Callable[[], str]) -> bool:
        """Whether it holds. Errors that are no answer (no server, no disk) are raised."""
        from registry.errors import RegistryError, RegistryUnreachable

        try:
            self.tell(HOLDS, name, question())
        except RegistryUnreachable:
            raise
        except RegistryError as answer:
            self.failed.append(name)
            self.tell(FAILS, name, str(answer))
            return False
        return True

    def tell(self, state: str, name: str, text: str) -> None:
        """Print one answer."""
        print(f"  {state:<7} {name:<10} {text}", flush=True)


def make_again(record: "Record", checks: Checks, sources: Sources, device: str, scratch: Path) -> Again | None:
    """The merge of `record`, whose lineage was checked, made again in `scratch`; None, and told, where it cannot be."""
    from tasks.remake import merge_again
    from widen import Manifest

    lineage = record.lineage
    try:
        manifest = Manifest.load(record.folder)
    except (OSError, ValueError) as error:
        checks.tell(ABSENT, "merge", f"not made again: {error}")
        return None
    recipes: list[Recipe] = []
    sound = checks.ask("recipe", lambda: _check_recipe(lineage, manifest, scratch, recipes))
    folders = _check_inputs(lineage, manifest, checks, sources, scratch)
    if not sound or folders is None:
        checks.tell(ABSENT, "merge", "not made again: that would be another merge than the one registered")
        return None
    allowed = recipes[0].validate.allow_config if recipes[0].validate else ()
    out = scratch / "merged"
    return Again(manifest, merge_again(manifest, folders, allowed, device, out), out)


def _check_recipe(lineage: "Lineage", manifest: "Manifest", scratch: Path, read: list[Recipe]) -> str:
    """The recorded recipe asks for the recorded merge; puts the recipe into `read`."""
    from registry.errors import NotVerified

    path = scratch / "recipe.yaml"
    path.write_text(lineage.recipe_text, encoding="utf-8")
    try:
        recipe = load_recipe(path)
    except WidenError as error:
        raise NotVerified(f"the recorded recipe cannot be read: {error}") from error
    settings = manifest.settings
    recipe = _as_merged(recipe, settings)
    asked = recipe.settings
    facts = {
        "digest": (lineage.recipe_digest, recipe.merge_digest),
        "inputs": ([entry.name for entry in lineage.inputs], list(recipe.inputs)),
        "input digests": ([e.digest for e in lineage.inputs], [e.digest for e in manifest.inputs]),
        "parameters": (dict(lineage.parameters), dict(settings)),
        "settings": (_of_tensors(settings), _of_tensors(asked.content)),
    }
    for what, (expected, found) in facts.items():
        if expected != found:
            raise NotVerified(f"{what}: expected {expected}, found {found}")
    read.append(recipe)
    return "asks for this merge: " + ", ".join([asked.method, *(f"{key} {asked.shared[key]}" for key in asked.shared)])


def _as_merged(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe as the engine read it that made `settings`: `tokenizer_source: base` asked nothing of the oldest."""
    if recipe.merge.tokenizer == TokenizerRequest(BASE).content and "tokenizer" not in settings:
        return replace(recipe, merge=replace(recipe.merge, tokenizer=None))
    return recipe


def _of_tensors(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the merged tensors depend on: how they are laid out in files was asked on the command line."""
    return {key: value for key, value in settings.items() if key != "shard_bytes"}


def _check_inputs(
    lineage: "Lineage",
    manifest: "Manifest",
    checks: Checks,
    sources: Sources,
    scratch: Path,
) -> dict[str, Path] | None:
    """The inputs' folders by name, or None when one of them cannot be had as it was."""
    from registry.errors import NotVerified
    from tasks.remake import check_input, fetch_recorded
    from tasks.workspace import create_workspace

    unknown = sorted(set(sources.places) - {entry.name for entry in lineage.inputs})
    if unknown:
        names = ", ".join(entry.name for entry in lineage.inputs)
        raise RecipeError(f"--source {unknown[0]}: no such input; the merge has {names}")
    fetched_into, folders = create_workspace(scratch / "workspace", {}), {}
    merged = {entry.name: entry for entry in manifest.inputs}

    def ask() -> str:
        told = []
        for entry in lineage.inputs:
            try:
                folder = fetch_recorded(entry, sources.places.get(entry.name), sources.workspace, fetched_into)
            except WidenError as error:
                raise NotVerified(f"input {entry.name} cannot be fetched: {error}") from error
            told.append(check_input(entry, merged.get(entry.name), folder))
            folders[entry.name] = folder
        return "at the recorded commits and places: " + ", ".join(told)

    return folders if checks.ask("inputs", ask) else None
