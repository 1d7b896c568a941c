"""mergekit's configuration syntax: what of it is taken, and what is refused by name.

mergekit itself ignores keys and parameters that it does not know; here each is an error, and what mergekit has and
this project does not is told apart from what nobody has.
"""

from collections.abc import Mapping
from typing import Any

from flows.faults import Fault, Where, describe, listed, show, unknown
from widen.methods import METHODS
from widen.settings import WIDEN

OTHERS = "arcee_fusion cabs core_space lrp nearswap passthrough ram ram_tensor".split()
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
UNSUPPORTED = {
    "slices": "whole models are merged: list them under `models`",
    "modules": "whole models are merged: list them under `models`",
    "tokenizer": "the base's tokenizer is kept",
    "chat_template": "the base's tokenizer files are kept as they are",
}
REFERENCE_EXTRAS = {
    "revision": "name the model under `sources` with `repo` and `rev`",
    "lora": "merge the adapter into its model first",
    "override_architecture": "the architecture is the base's",
}


def looks_like(data: Mapping[str, Any]) -> bool:
    """Whether a document is a bare mergekit configuration rather than a recipe."""
    return "merge" not in data and any(key in data for key in ("merge_method", "models", "slices", "modules"))


def adapt(merge: Mapping[str, Any], at: Where) -> tuple[dict[str, Any], list[Fault]]:
    """A mergekit configuration in this project's plain form, and a fault for each part that is not supported.

    What is refused is taken out, so that it is reported once. `at` is where the configuration stands in its document.
    """
    clean = dict(merge)
    faults = [
        _unsupported((*at, key), key, advice) for key, advice in UNSUPPORTED.items() if clean.pop(key, None) is not None
    ]
    faults += _method(clean, at)
    faults += _tokenizer_source(clean, at)
    _drop_without_effect(clean)
    faults += _references(clean, at)
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
    clean.pop("parameters", None)
    if isinstance(clean.get("models"), list):
        clean["models"] = [_without_parameters(model) for model in clean["models"]]
    where = (*at, "merge_method")
    if method in OTHERS:
        return [_unsupported(where, method, f"the merge methods here are {listed(sorted(METHODS))}")]
    return [Fault(where, unknown("merge method", method, sorted(METHODS)))]


def _without_parameters(model: Any) -> Any:
    return {key: one for key, one in model.items() if key != "parameters"} if isinstance(model, Mapping) else model


def _tokenizer_source(clean: dict[str, Any], at: Where) -> list[Fault]:
    source = clean.pop("tokenizer_source", None)
    if source in (None, "base"):
        return []
    told = f"expected `base`, found {describe(source)}: other sources, such as mergekit's `union`, are not supported"
    return [Fault((*at, "tokenizer_source"), told)]


def _drop_without_effect(clean: dict[str, Any]) -> None:
    """Take out the parameters that change nothing; `recipe_methods` looks at the rest."""
    given = clean.get("parameters")
    if given is None:
        clean.pop("parameters", None)
    elif isinstance(given, Mapping):
        clean["parameters"] = _effective(clean.get("merge_method"), given)
    if isinstance(clean.get("models"), list):
        clean["models"] = [_model_effective(clean.get("merge_method"), model) for model in clean["models"]]


def _model_effective(method: Any, model: Any) -> Any:
    if not isinstance(model, Mapping) or not isinstance(model.get("parameters"), Mapping):
        return model
    return {**model, "parameters": _effective(method, model["parameters"])}


def _effective(method: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if method not in WITHOUT_EFFECT.get(name, ())}


def _references(clean: dict[str, Any], at: Where) -> list[Fault]:
    faults: list[Fault] = []
    if "base_model" in clean:
        clean["base_model"] = _reference(clean["base_model"], (*at, "base_model"), faults)
    if isinstance(clean.get("models"), list):
        clean["models"] = [_model(model, (*at, "models", index), faults) for index, model in enumerate(clean["models"])]
    return faults


def _model(entry: Any, where: Where, faults: list[Fault]) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    clean = dict(entry)
    if clean.get("parameters") is None:
        clean.pop("parameters", None)
    if "model" in clean:
        clean["model"] = _reference(clean["model"], (*where, "model"), faults)
    return clean


def _reference(value: Any, where: Where, faults: list[Fault]) -> Any:
    """mergekit writes a model as text, {model: text} or {model: {path: text}}; the text is what counts."""
    while isinstance(value, Mapping) and ("model" in value or "path" in value):
        key = "model" if "model" in value else "path"
        for extra in (name for name in value if name != key and value[name] is not None):
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
    return value
