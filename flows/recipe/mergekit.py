"""mergekit's configuration syntax: what of it is taken, and what is refused by name.

mergekit itself ignores keys and parameters that it does not know; here each is an error, and what mergekit has and
this project does not is told apart from what nobody has.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flows.recipe.faults import Fault, Where, describe, listed, show, unknown
from widen.methods import METHODS
from widen.settings import WIDEN

OTHERS = "arcee_fusion cabs core_space lrp nearswap ram ram_tensor".split()
"""mergekit's methods that are not here."""
PARAMETERS = (
    "density epsilon filter filter_wise gamma int8_mask lambda max_iter normalize_weights nuslerp_flatten "
    "nuslerp_row_wise normalize rescale scale select_topk swapping t tol value weight"
).split()
WITHOUT_EFFECT = {
    "int8_mask": (
        "ties breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear task_arithmetic sce"
    ).split(),
    "density": ["task_arithmetic"],
    "rescale": ["task_arithmetic"],
}
"""Parameters that mergekit takes and that change no merged byte: there for memory, or shared by methods without use."""
REFERENCE_EXTRAS = {
    "revision": "name the model under `sources` with `repo` and `rev`",
    "override_architecture": "the architecture is the base's",
}


FOREIGN = {
    "genome": "a file for mergekit-evolve; `widen compare` searches a method's parameters",
    "experts": "a file for mergekit-moe, which makes a mixture of experts; that is not supported",
    "gate_mode": "a file for mergekit-moe, which makes a mixture of experts; that is not supported",
    "metric_method": "a file that measures models; `widen validate` measures what a merge is made of",
}
"""Keys by which files of mergekit's other tools are known."""


def foreign(data: Mapping[str, Any]) -> Fault | None:
    """What a file of another of mergekit's tools is, by the first key that says so."""
    return next((Fault((key,), f"this is {told}") for key, told in FOREIGN.items() if key in data), None)


def looks_like(data: Mapping[str, Any]) -> bool:
    """Whether a document is a bare mergekit configuration rather than a recipe."""
    return "merge" not in data and any(key in data for key in ("merge_method", "models", "slices", "modules"))


def adapt(merge: Mapping[str, Any], at: Where) -> tuple[dict[str, Any], list[Fault]]:
    """A mergekit configuration in this project's plain form, and a fault for each part that is not supported.

    What is refused is taken out, so that it is reported once. `at` is where the configuration stands in its document.
    """
    clean = dict(merge)
    faults = _method(clean, at)
    if clean.pop("out_path", None) is not None:
        faults.append(_unsupported((*at, "out_path"), "out_path", "the command line says where: `--out`"))
    _drop_without_effect(clean)
    faults += _references(clean, at)
    if isinstance(clean.get("tokenizer_source"), str):
        clean["tokenizer_source"] = clean["tokenizer_source"].removeprefix("model:")
    for key in ("dtype", "out_dtype"):
        if isinstance(clean.get(key), str):
            clean[key] = clean[key].removeprefix("torch.")
    return clean, faults


def _unsupported(where: Where, name: str, advice: str) -> Fault:
    return Fault(where, f"mergekit's `{name}` is not supported: {advice}")


def _method(clean: dict[str, Any], at: Where) -> list[Fault]:
    """Parameters of a method that is not here say nothing, so they go with it."""
    method = clean.get("merge_method")
    if not isinstance(method, str) or method in METHODS:
        return []
    clean["merge_method"] = WIDEN
    clean.update(_everywhere(clean, lambda owner: {key: one for key, one in owner.items() if key != "parameters"}))
    clean.pop("parameters", None)
    where = (*at, "merge_method")
    if method in OTHERS:
        return [_unsupported(where, method, f"the merge methods here are {listed(sorted(METHODS))}")]
    return [Fault(where, unknown("merge method", method, sorted(METHODS)))]


LISTS = ("models", "slices", "sources")
"""Whose entries may have parameters, and lists among themselves; so may the entries of `modules`, by name."""


def _everywhere(section: Mapping[str, Any], change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """The section after `change`, and so whatever in it may have parameters, models and slices."""
    changed = dict(change(section))
    for key in LISTS:
        if isinstance(changed.get(key), list):
            changed[key] = [_everywhere(one, change) if isinstance(one, Mapping) else one for one in changed[key]]
    if isinstance(modules := changed.get("modules"), Mapping):
        changed["modules"] = {
            name: _everywhere(one, change) if isinstance(one, Mapping) else one for name, one in modules.items()
        }
    return changed


def _drop_without_effect(clean: dict[str, Any]) -> None:
    """Take out the parameters that change nothing; `methods` looks at the rest."""
    method = clean.get("merge_method")

    def effective(owner: Mapping[str, Any]) -> Mapping[str, Any]:
        given = owner.get("parameters")
        if given is None:
            return {key: one for key, one in owner.items() if key != "parameters"}
        if not isinstance(given, Mapping):
            return owner
        left = {name: value for name, value in given.items() if method not in WITHOUT_EFFECT.get(name, ())}
        return {**owner, "parameters": left}

    clean.update(_everywhere(clean, effective))
    if clean.get("parameters") is None:
        clean.pop("parameters", None)


def _references(clean: dict[str, Any], at: Where) -> list[Fault]:
    faults: list[Fault] = []
    clean.update(_named(clean, at, faults))
    if "tokenizer_source" in clean:
        clean["tokenizer_source"] = _reference(clean["tokenizer_source"], (*at, "tokenizer_source"), faults)
    if isinstance(clean.get("tokenizer"), Mapping):
        clean["tokenizer"] = _tokenizer(clean["tokenizer"], (*at, "tokenizer"), faults)
    return faults


def _named(section: Mapping[str, Any], at: Where, faults: list[Fault]) -> dict[str, Any]:
    """The section with every model in it as text."""
    named = dict(section)
    for key in ("base_model", "model"):
        if key in named:
            named[key] = _reference(named[key], (*at, key), faults)
    for key in LISTS:
        if isinstance(named.get(key), list):
            entries = enumerate(named[key])
            named[key] = [_named(one, (*at, key, k), faults) if isinstance(one, Mapping) else one for k, one in entries]
    if isinstance(modules := named.get("modules"), Mapping):
        named["modules"] = {
            name: _named(one, (*at, "modules", name), faults) if isinstance(one, Mapping) else one
            for name, one in modules.items()
        }
    return named


def _tokenizer(section: Mapping[str, Any], where: Where, faults: list[Fault]) -> dict[str, Any]:
    """The section with every model in it as text."""
    clean = {key: one for key, one in section.items() if one is not None}
    if "source" in clean:
        clean["source"] = _reference(clean["source"], (*where, "source"), faults)
    if isinstance(clean.get("tokens"), Mapping):
        clean["tokens"] = {
            text: _token(one, (*where, "tokens", str(text)), faults) for text, one in clean["tokens"].items()
        }
    return clean


def _token(one: Any, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(one, Mapping) or one.get("source") is None:
        return one
    source, place = one["source"], (*where, "source")
    if not isinstance(source, Mapping) or "kind" not in source:
        return {**one, "source": _reference(source, place, faults)}
    if "model" in source:
        return {**one, "source": {**source, "model": _reference(source["model"], (*place, "model"), faults)}}
    return one


def _reference(value: Any, where: Where, faults: list[Fault]) -> Any:
    """mergekit writes a model as text, {model: text} or {model: {path: text}}; the text is what counts.

    An adapter on it, `lora`, is written in the same way, and becomes MODEL+ADAPTER.
    """
    adapter = None
    while isinstance(value, Mapping) and ("model" in value or "path" in value):
        key = "model" if "model" in value else "path"
        known = ("model", "lora") if key == "model" else ("path",)
        if "lora" in known and value.get("lora") is not None:
            adapter = _reference(value["lora"], (*where, "lora"), faults)
            if not isinstance(adapter, str):
                told = f"expected an adapter's name or folder, or {{path: FOLDER}}, found {describe(adapter)}"
                faults.append(Fault((*where, "lora"), told))
        for extra in (name for name in value if name not in known and value[name] is not None):
            advice = REFERENCE_EXTRAS.get(extra)
            told = _unsupported((), extra, advice).text if advice else unknown("key", extra, [key])
            faults.append(Fault((*where, extra), told))
        value, where = value[key], (*where, key)
    if isinstance(value, Mapping):
        faults.append(
            Fault(
                where, f"expected a model's name or folder, found a mapping without `model` ({show(', '.join(value))})"
            )
        )
        return "?"
    return f"{value}+{adapter}" if isinstance(value, str) and isinstance(adapter, str) else value
