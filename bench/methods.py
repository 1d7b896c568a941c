"""The merge methods that this project and mergekit share: one configuration a method, which both read as it is."""

import sys

from bench.entrants import ARCHITECTURE, Entrant, Workplace

WEIGHTED: dict[str, object] = {"weight": 0.5}
HALF = WEIGHTED | {"density": 0.5}
EACH: dict[str, dict[str, object]] = {
    "linear": WEIGHTED,
    "task_arithmetic": WEIGHTED,
    "slerp": {},
    "nuslerp": WEIGHTED,
    "multislerp": WEIGHTED,
    "karcher": {},
    "model_stock": {},
    "ties": HALF,
    "breadcrumbs": HALF,
    "breadcrumbs_ties": HALF,
    "dare_linear": HALF,
    "dare_ties": HALF,
    "della": HALF,
    "della_linear": HALF,
    "sce": {},
    "passthrough": {},
}
"""Each method with its models' parameters."""
SHARED: dict[str, dict[str, object]] = {"slerp": {"t": 0.5}, "sce": {"select_topk": 0.5}}
"""And those of the whole merge."""
WITHOUT_BASE = ("linear", "karcher", "passthrough")
FEWER = {"slerp": " (of two models)", "passthrough": " (of one model)"}
"""What is said of a method that does not take all three models."""


def configuration(method: str, base: str, models: list[str]) -> dict[str, object]:
    """A mergekit configuration: slerp goes from the base to one model, passthrough takes one, others take all."""
    baseless = method in WITHOUT_BASE
    listed = [base, *models] if baseless else [base, models[0]] if method == "slerp" else models
    if method == "passthrough":
        listed = models[:1]
    content: dict[str, object] = {"merge_method": method, "dtype": "bfloat16"}
    if not baseless:
        content["base_model"] = base
    entries = [{"model": model, "parameters": EACH[method]} for model in listed]
    content["models"] = [{key: value for key, value in entry.items() if value} for entry in entries]
    return content | ({"parameters": SHARED[method]} if method in SHARED else {})


def among(method: str) -> str:
    """What to say of a method that does not take all three models."""
    return FEWER.get(method, "")


def own_entrant(place: Workplace, method: str, device: str) -> Entrant:
    """This project's merge by a method, with nothing known but the architecture."""
    name = f"own-{method.replace('_', '-')}"
    base, *models = (str(path) for path in place.inputs.values())
    recipe, out = place.recipe(name, configuration(method, base, models)), place.out(name)
    arguments = ["merge", str(recipe), "--out", str(out), "--device", device, "--cache", str(place.cache)]

    def start() -> None:
        place.put_tuned()
        place.forget(ARCHITECTURE)

    return Entrant(
        name, f"this project, {method}{among(method)}", sys.executable, "flows", arguments, start, out, "own"
    )
