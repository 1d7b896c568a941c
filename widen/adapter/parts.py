"""What each tensor of an adapter is: a part of a module's change, or a tensor that takes the place of the base's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused

PREFIX = "base_model.model."
LONGEST_NAME = 300
"""Characters: patterns are matched against names, and no model has longer ones."""
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector(?:\.weight)?)"
)
_OURS = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_B.bias": "bias", "lora_embedding_A": "A", "lora_embedding_B": "B",
    "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip


@dataclass
class Module:
    """One adapted module: its parts' names in the adapter, by A, B, bias and magnitude."""

    name: str
    is_embedding: bool
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """The modules by name in the trained model, and the tensors that were saved whole: name there to name here."""

    modules: Mapping[str, Module]
    saved: Mapping[str, str]

    @classmethod
    def of(cls, adapter: Checkpoint) -> "Parts":
        """Raises InputsRefused for a tensor that is neither, and for a module without one of its two matrices."""
        modules: dict[str, Module] = {}
        saved: dict[str, str] = {}
        for stored in adapter.tensors:
            name = stored.removeprefix(PREFIX)
            found = _PART.fullmatch(name)
            if len(name) > LONGEST_NAME:
                raise InputsRefused(f"{adapter.name}: tensor {stored[:60]}... has a name of {len(stored)} characters")
            if name == stored or (not found and ("lora_" in name or "token_adapter" in name)):
                raise InputsRefused(f"{adapter.name}: tensor {stored} is no part of a LoRA adapter as PEFT stores one")
            if found:
                module = modules.setdefault(found["module"], Module(found["module"], "embedding" in found["part"]))
                module.parts[_OURS[found["part"]]] = stored
            else:
                saved[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = stored
        for name, module in modules.items():
            if not {"A", "B"} <= set(module.parts):
                raise InputsRefused(f"{adapter.name}: module {name} lacks one of its matrices, lora_A and lora_B")
        return cls(modules, saved)
