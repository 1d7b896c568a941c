"""adapter_config.json: what it says of a merge, what says nothing of it, and what is refused by name.

Names and defaults are those of PEFT's LoraConfig.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from widen.errors import InputsRefused

READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
SILENT = set(
    "auto_mapping base_model_name_or_path bias corda_config eva_config exclude_modules fan_in_fan_out inference_mode "
    "init_lora_weights layers_pattern layers_to_transform lora_bias lora_dropout loftq_config lora_ga_config "
    "megatron_core modules_to_save peft_version qalora_group_size revision runtime_config target_modules "
    "task_type".split()
)
"""Keys that say where or how an adapter was trained: which tensors it changes is what is stored in it."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations after which the adapter belongs to another base than the one that it names."""
ADVICE = {
    "trainable_token_indices": "its new token rows are stored apart from the embedding",
    "megatron_config": "its layers are split over devices",
    "alora_invocation_tokens": "it is active only after certain tokens, so it cannot be merged into weights",
    "layer_replication": "its base has other layers than the checkpoint",
    "target_parameters": "it adapts parameters that are no matrices of their own, such as fused experts",
    "ensure_weight_tying": "it adapts tied weights together",
}
LONGEST_PATTERN, MOST_QUANTIFIERS = 200, 2


@dataclass(frozen=True)
class LoraConfig:
    """What decides the scale of each module's product, and whether its magnitude is apart (DoRA)."""

    name: str
    rank: int
    alpha: float
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]
    rslora: bool
    dora: bool

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> "LoraConfig":
        """Raises InputsRefused, naming the key, for what is no LoRA or no LoRA that can be merged exactly."""
        if content.get("peft_type") != "LORA":
            raise InputsRefused(
                f"{name}: adapter_config.json: expected peft_type LORA, found {content.get('peft_type')!r}"
            )
        for key in sorted(set(content) - READ - SILENT):
            if content[key] not in (None, False, {}, []):
                told = ADVICE.get(key, "it is not known to leave the merge as it is")
                raise InputsRefused(f"{name}: adapter_config.json has `{key}`: {told}; merge it with PEFT first")
        init = content.get("init_lora_weights")
        if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
            raise InputsRefused(
                f"{name}: adapter_config.json has init_lora_weights {init!r}, which changed the base before training; "
                "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
            )
        rank, alpha = (_number(name, key, content.get(key, 8)) for key in ("r", "lora_alpha"))
        return cls(
            name, int(rank), alpha,
            _pattern(name, "rank_pattern", content), _pattern(name, "alpha_pattern", content),
            _switch(name, "use_rslora", content), _switch(name, "use_dora", content),
        )  # fmt: skip

    def rank_of(self, module: str) -> int:
        """The rank of a module's matrices."""
        return int(_matching(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) where rank-stabilised (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        return float(_matching(self.alphas, module, self.alpha)) / (sqrt(rank) if self.rslora else rank)


def _matching(pattern: Mapping[str, float], module: str, default: float) -> float:
    """As PEFT: the first key that matches the end of the module's name, whole parts of it."""
    found = (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, default)


def _number(name: str, key: str, value: Any) -> float:
    whole = "rank" in key or key == "r"
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InputsRefused(f"{name}: adapter_config.json: {key}: expected a number, found {value!r}")
    if whole and (value < 1 or value != int(value)):
        raise InputsRefused(
            f"{name}: adapter_config.json: {key}: expected a whole number of at least 1, found {value!r}"
        )
    return value


def _switch(name: str, key: str, content: Mapping[str, Any]) -> bool:
    value = content.get(key, False)
    if not isinstance(value, bool):
        raise InputsRefused(f"{name}: adapter_config.json: {key}: expected true or false, found {value!r}")
    return value


def _pattern(name: str, key: str, content: Mapping[str, Any]) -> dict[str, float]:
    """A mapping of expressions to numbers; only such expressions as match in a time that does not explode."""
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise InputsRefused(f"{name}: adapter_config.json: {key}: expected a mapping, found {found!r}")
    for expression, value in found.items():
        _number(name, f"{key}[{expression[:60]!r}]", value)
        if len(expression) > LONGEST_PATTERN or not _is_plain(expression):
            raise InputsRefused(
                f"{name}: adapter_config.json: {key}: {expression[:60]!r} is no expression that is matched here; "
                "expected names, with a few simple repetitions at most"
            )
    return found


def _is_plain(expression: str) -> bool:
    quantifiers = len(re.findall(r"[*+{]", expression))
    try:
        re.compile(expression)
    except re.error:
        return False
    return quantifiers <= MOST_QUANTIFIERS and not re.search(r"\)[*+{?]|\(\?|\\[1-9]", expression)
