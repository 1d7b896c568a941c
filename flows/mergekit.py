"""mergekit's configuration syntax: what of it a WIDEN merge takes, and what it refuses by name.

mergekit itself ignores keys and parameters that it does not know; here each is an error, and what mergekit has and
this project does not is told apart from what nobody has.
"""

from collections.abc import Mapping
from typing import Any

from flows.faults import Fault, Where, describe, listed, show, unknown

METHOD = "widen"
METHODS = (
    "arcee_fusion breadcrumbs breadcrumbs_ties cabs core_space dare_linear dare_ties della della_linear karcher linear "
    "lrp model_stock multislerp nearswap nuslerp passthrough ram ram_tensor sce slerp task_arithmetic ties"
).split()
PARAMETERS = (
    "density epsilon filter filter_wise gamma int8_mask lambda max_iter nuslerp_flatten nuslerp_row_wise normalize "
    "rescale scale select_topk swapping tol value weight"
).split()
OWN_PARAMETERS = ("s", "t")
UNSUPPORTED = {
    "slices": "WIDEN merges whole models: list them under `models`",
    "modules": "WIDEN merges whole models: list them under `models`",
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
    faults += _parameters(clean, at)
    faults += _references(clean, at)
    for key in ("dtype", "out_dtype"):
        if isinstance(clean.get(key), str):
            clean[key] = clean[key].removeprefix("torch.")
    return clean, faults


def _unsupported(where: Where, name: str, advice: str) -> Fault:
    return Fault(where, f"mergekit's `{name}` is not supported: {advice}")


def _method(clean: dict[str, Any], at: Where) -> list[Fault]:
    """Another method's parameters say nothing here, so they go with it."""
    method = clean.get("merge_method")
    if not isinstance(method, str) or method == METHOD:
        return []
    clean["merge_method"] = METHOD
    clean.pop("parameters", None)
    where = (*at, "merge_method")
    if method in METHODS:
        return [_unsupported(where, method, f"the one merge method here is `{METHOD}`")]
    return [Fault(where, unknown("merge method", method, [METHOD]))]


def _tokenizer_source(clean: dict[str, Any], at: Where) -> list[Fault]:
    source = clean.pop("tokenizer_source", None)
    if source in (None, "base"):
        return []
    told = f"expected `base`, found {describe(source)}: other sources, such as mergekit's `union`, are not supported"
    return [Fault((*at, "tokenizer_source"), told)]


def _parameters(clean: dict[str, Any], at: Where) -> list[Fault]:
    given = clean.get("parameters")
    if not isinstance(given, Mapping):
        return []
    faults = []
    kept = dict(given)
    for name, value in given.items():
        where = (*at, "parameters", name)
        if name in PARAMETERS:
            faults.append(_unsupported(where, name, f"WIDEN's parameters are {listed(OWN_PARAMETERS)}"))
            del kept[name]
        elif name in OWN_PARAMETERS and isinstance(value, list | Mapping):
            faults.append(
                Fault(where, f"expected one number, found {describe(value)}: gradients and filters are not supported")
            )
            del kept[name]
    clean["parameters"] = kept
    return faults


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
    if clean.pop("parameters", None):
        told = "a model's own parameters (weight, density) are not supported: WIDEN computes each column's weights"
        faults.append(Fault((*where, "parameters"), told))
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
