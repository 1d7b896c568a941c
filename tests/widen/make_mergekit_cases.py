"""Makes tests/mergekit anew: small float32 models, configurations in mergekit's syntax, what mergekit merges of them.

python -m tests.widen.make_mergekit_cases PYTHON, the interpreter of an environment with mergekit (`make bench-peers`).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from tests.build import LLAMA, changed, llama_weights, write_checkpoint

FOLDER = Path(__file__).parents[1] / "mergekit"
SMALL = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "vocab_size": 24, "num_hidden_layers": 3}
OPTIONS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
MODELS = ("m1", "m2", "m3")


def _of(method: str, base: str | None, own: dict[str, dict[str, object]], **parameters: object) -> dict[str, object]:
    models = [{"model": f"./{name}", **({"parameters": one} if one else {})} for name, one in own.items()]
    told: dict[str, object] = {"merge_method": method, "models": models, "dtype": "float32"}
    return told | ({"base_model": f"./{base}"} if base else {}) | ({"parameters": parameters} if parameters else {})


def _each(*owns: dict[str, object]) -> dict[str, dict[str, object]]:
    return dict(zip(MODELS, owns, strict=False))


def _stacked(
    method: str, base: str | None, *slices: dict[str, tuple[int, int, dict[str, object]]], **parameters: object
) -> dict[str, object]:
    told = [
        {
            "sources": [
                {"model": f"./{name}", "layer_range": [first, last], **({"parameters": own} if own else {})}
                for name, (first, last, own) in one.items()
            ]
        }
        for one in slices
    ]
    whole: dict[str, object] = {"merge_method": method, "slices": told, "dtype": "float32"}
    return whole | ({"base_model": f"./{base}"} if base else {}) | ({"parameters": parameters} if parameters else {})


GRADIENT = [{"filter": "mlp", "value": [0.2, 0.9]}, {"filter": "self_attn", "value": 0.4}, {"value": [0.5, 0.7, 1.0]}]
SCALE = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]
CASES = {
    "linear": _of("linear", None, _each({"weight": 1.0}, {"weight": 0.5}, {"weight": 0.25})),
    "linear-base": _of("linear", "base", {"base": {"weight": 0.3}, **_each({"weight": 0.5})}, normalize=False),
    "task-arithmetic": _of("task_arithmetic", "base", _each({"weight": 0.6}, {"weight": 0.7}), **{"lambda": 0.8}),
    "task-arithmetic-gradient": _of("task_arithmetic", "base", _each({"weight": GRADIENT}, {"weight": [1, 0]})),
    "slerp": _of("slerp", "base", {"base": {}, "m3": {}}, t=GRADIENT),
    "nuslerp": _of("nuslerp", None, _each({"weight": 0.25}, {"weight": 0.5})),
    "nuslerp-base": _of("nuslerp", "base", _each({"weight": 0.25}, {"weight": 0.5})),
    "multislerp": _of("multislerp", None, _each({"weight": 0.2}, {"weight": 0.5}, {"weight": 0.4})),
    "multislerp-base": _of("multislerp", "base", _each({"weight": 0.2}, {"weight": 0.5}, {"weight": 0.4})),
    "karcher": _of("karcher", None, _each({}, {}, {})),
    "model-stock": _of("model_stock", "base", _each({}, {}, {})),
    "ties": _of("ties", "base", _each(*({"weight": w, "density": d} for w, d in ((0.5, 0.3), (1.0, 0.6), (0.3, 1.0))))),
    "ties-gradient": _of("ties", "base", _each({"density": GRADIENT}, {"density": 0.5}), weight=0.5, normalize=False),
    "breadcrumbs": _of("breadcrumbs", "base", _each({"gamma": 0.1}, {"gamma": 0.05}), weight=0.5, density=0.6),
    "nuslerp-rows": _of("nuslerp", None, _each({"weight": 0.25}, {"weight": 0.5}), nuslerp_flatten=False),
    "nuslerp-columns": _of(
        "nuslerp", "base", _each({"weight": 0.25}, {"weight": 0.5}), nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "model-stock-filters": _of("model_stock", "base", _each({}, {}, {}), filter_wise=True),
    "ties-rescaled": _of("ties", "base", _each({}, {}), weight=0.5, density=0.3, rescale=True),
    "sce": _of("sce", "base", _each({}, {}, {})),
    "sce-selected": _of("sce", "base", _each({}, {}, {}), select_topk=0.4),
    "breadcrumbs-ties": _of("breadcrumbs_ties", "base", _each({}, {}, {}), weight=0.5, density=0.4, gamma=0.1),
    "passthrough": _of("passthrough", None, {"m1": {"scale": [{"filter": "down_proj", "value": 0.3}, {"value": 1.0}]}}),
    "slices-passthrough": _stacked(
        "passthrough", None, {"m1": (0, 2, {})}, {"m2": (1, 3, {})}, {"m1": (2, 3, {"scale": SCALE})}
    ),
    "slices-linear": _stacked(
        "linear", None, {"m1": (0, 1, {"weight": 1.0})},
        {"m1": (1, 3, {"weight": 1.0}), "m2": (0, 2, {"weight": GRADIENT})}, {"m3": (2, 3, {"weight": 1.0})},
    ),
    "slices-slerp": _stacked("slerp", "base", {"base": (0, 3, {}), "m2": (0, 3, {})}, t=GRADIENT),
    "slices-ties": _stacked(
        "ties", "base", {"base": (0, 2, {}), "m1": (0, 2, {"density": 0.4}), "m2": (0, 2, {"density": 0.7})},
        {"base": (1, 3, {}), "m2": (1, 3, {"density": [0.2, 0.9]})}, weight=0.5,
    ),
    "modules": {
        "merge_method": "linear", "dtype": "float32",
        "modules": {"default": {"models": [{"model": f"./{name}", "parameters": {"weight": weight}}
                                           for name, weight in (("m1", 0.3), ("m3", 0.6))]}},
    },
}  # fmt: skip


def write_inputs(folder: Path) -> None:
    """A base, two models tuned from it, and one far off."""
    base = llama_weights(0, torch.float32, SMALL)
    models = [changed(base, 1, 0.1), changed(base, 2, 0.3), llama_weights(5, torch.float32, SMALL)]
    for name, weights in zip(("base", *MODELS), (base, *models), strict=True):
        write_checkpoint(folder / name, weights, SMALL)


def make(python: str) -> None:
    """Write everything into FOLDER."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_inputs(FOLDER)
    for name, configuration in CASES.items():
        (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
        with tempfile.TemporaryDirectory() as out:
            command = [python, "-m", "mergekit.scripts.run_yaml", f"{name}.yaml", out, *OPTIONS]
            subprocess.run(command, cwd=FOLDER, check=True)
            shutil.copyfile(Path(out, "model.safetensors"), FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    make(sys.argv[1])
