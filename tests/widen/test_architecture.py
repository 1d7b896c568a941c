"""The table of well-known architectures: as transformers says now, silent where it cannot be certain."""

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from tests.build import family as write_family
from tests.build import write_checkpoint
from tests.widen.make_architectures import CLASSES, asked, meta_model, small_config, table, text_of
from widen.architecture import Architecture
from widen.checkpoint import Checkpoint
from widen.dtypes import storage_type
from widen.headers import TensorEntry
from widen.known_architectures import ACTIVATIONS, TABLE, known_architecture, known_families

SIZES = {
    "vocab_size": 80, "hidden_size": 48, "n_embd": 48, "intermediate_size": 56, "num_attention_heads": 6, "n_head": 6,
    "num_key_value_heads": 3, "head_dim": 10, "num_hidden_layers": 3, "n_layer": 3,
}  # fmt: skip
every_class = pytest.mark.parametrize("name", CLASSES)
LLAMA, GPT2, GEMMA3 = "LlamaForCausalLM", "GPT2LMHeadModel", "Gemma3ForCausalLM"


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The tensors of the class with SIZES, tied ones as well."""
    parameters = meta_model(small_config(name, tied=False, **SIZES)).named_parameters()
    return {path: tuple(parameter.shape) for path, parameter in parameters}


def unread(config: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A checkpoint of which only the headers' content is there."""
    kind = storage_type("bfloat16")
    entries = {name: TensorEntry(name, "model.safetensors", 0, 0, kind, shape) for name, shape in tensors.items()}
    return Checkpoint("unread", Path(), config, entries, ("model.safetensors",))


def answered(name: str, **changes: Any) -> dict[str, Any] | None:
    """What the table says of the class with SIZES and a changed configuration."""
    return known_architecture(unread(small_config(name, tied=False, **SIZES) | changes, shapes(name)))


def test_the_table_is_what_transformers_says_now() -> None:
    assert TABLE.read_text(encoding="utf-8") == text_of(table()), "run python -m tests.widen.make_architectures"


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@every_class
def test_a_checkpoint_is_described_as_by_transformers(name: str, tied: bool, tmp_path: Path) -> None:
    config = small_config(name, tied, **SIZES)
    expected = asked(copy.deepcopy(config))
    # The tied one is stored under the names of the bare model.
    prefix = f"{expected['prefix']}." if tied else ""
    weights = {path.removeprefix(prefix): torch.zeros(shape) for path, shape in shapes(name).items()}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "base", weights, config))
    assert known_architecture(checkpoint) == expected
    ours = Architecture.of(checkpoint)
    theirs = Architecture(expected["kinds"], frozenset(expected["tied"]), expected["prefix"])
    for stored, entry in checkpoint.tensors.items():
        assert ours.kind_of(stored, entry.shape) == theirs.kind_of(stored, entry.shape), stored
        assert ours.is_tied(stored) == theirs.is_tied(stored), stored
    assert any(ours.is_tied(stored) for stored in checkpoint.tensors) == tied


ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5000.0}
LLAMA3 = {"type": "llama3", "factor": 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OTHER_VALUES: dict[str, Any] = {
    "activation": "mish", "bit": 0, "bits": [0, 1, 0], "dtype": "float16", "flag": False,
    "layers": ["sliding_attention", "full_attention", "full_attention"], "list": None, "null": None, "object": {"x": 1},
    "partial-rope": LLAMA3 | {"partial_rotary_factor": 0.3}, "plain-rope": {"rope_type": "default", "rope_theta": 7},
    "real": 2.5, "rope": ROPE,
    "ropes": {"full_attention": LLAMA3, "sliding_attention": {"rope_type": "linear", "factor": 2}}, "share": 0.5,
    "size": 6, "text": "x", "theta": 3000, "unit": 0.25, "whole": 4, "wholes": [4, 5],
}  # fmt: skip


@pytest.mark.parametrize("choice", [0, -1])
@every_class
def test_a_free_key_says_nothing_about_tensors(name: str, choice: int) -> None:
    changes = {
        key: copy.deepcopy(OTHER_VALUES[rules.split("|")[choice]])
        for key, rules in known_families()[name]["free"].items()
        if key not in SIZES and key not in ("architectures", "model_type")
    }
    said = answered(name, **changes)
    assert said is not None
    config = small_config(name, tied=False, **SIZES) | copy.deepcopy(changes)
    assert said == asked(config)


@every_class
def test_a_configuration_may_leave_out_all_but_the_sizes(name: str) -> None:
    family = known_families()[name]
    kept = {"architectures", "model_type", *(family[key] for key in ("vocabulary", "hidden", "layers", "heads"))}
    config = {key: value for key, value in small_config(name, False, **SIZES).items() if key in kept}
    expected = None if (family["pad"] or 0) >= SIZES["vocab_size"] else asked(copy.deepcopy(config))
    assert known_architecture(unread(config, shapes(name))) == expected


@every_class
def test_any_value_of_another_kind_makes_it_silent(name: str) -> None:
    family = known_families()[name]
    assert answered(name) is not None
    for key, rules in family["free"].items():
        assert answered(name, **{key: "?" if "real" in rules else -7.5}) is None, key
        if "flag" not in rules.split("|"):
            assert answered(name, **{key: True}) is None, key
    for key, only in family["fixed"].items():
        assert answered(name, **{key: only}) is not None, key
        others = (int(only), not only) if isinstance(only, bool) else (not only, "?")
        assert [answered(name, **{key: other}) for other in others] == [None, None], key


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": [LLAMA, LLAMA]}, {"architectures": LLAMA}, {"architectures": []},
        {"architectures": [[LLAMA]]}, {"architectures": ["MysteryForCausalLM"]}, {"architectures": None},
        {"model_type": "mistral"}, {"model_type": None}, {"vocab_size": 81}, {"vocab_size": 80.0},
        {"hidden_size": 96}, {"hidden_size": True}, {"hidden_size": -48}, {"hidden_size": "48"},
        {"hidden_size": 0}, {"num_hidden_layers": 2}, {"num_hidden_layers": 4}, {"num_hidden_layers": True},
        {"num_hidden_layers": 10**9}, {"num_attention_heads": 0}, {"num_attention_heads": 5},
        {"num_attention_heads": 16}, {"intermediate_size": 1 << 62}, {"head_dim": 9}, {"head_dim": -2},
        {"pad_token_id": 80}, {"pad_token_id": -1},
        {"tie_word_embeddings": 1}, {"tie_word_embeddings": None}, {"tie_word_embeddings": "true"},
        {"attention_bias": True}, {"mlp_bias": 0},
        {"hidden_act": "prelu"}, {"hidden_act": "xielu"}, {"per_layer_config": {"0": {"mlp_bias": True}}},
        {"num_experts": 8}, {"layer_types": ["full_attention"] * 3}, {"auto_map": {}}, {"dtype": "int8"},
        {"attn_implementation": "flash_attention_2"}, {"rms_norm_eps": float("nan")}, {"rope_theta": float("inf")},
        {"rope_scaling": {"type": "mystery"}}, {"rope_scaling": {"type": "linear"}}, {"rope_scaling": {"type": ["x"]}},
        {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": 0.5}}, {"rope_scaling": {"type": "linear", "factor": True}},
        {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, {"rope_scaling": ROPE | {"mystery": 1}},
        {"rope_scaling": ROPE | {"partial_rotary_factor": 0.5}}, {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    ],
    ids=str,
)  # fmt: skip
def test_a_doubtful_configuration_makes_it_silent(changes: dict[str, Any]) -> None:
    assert answered(LLAMA) is not None
    assert answered(LLAMA, **changes) is None


@pytest.mark.parametrize("name", ["PhiForCausalLM", "GlmForCausalLM", "GPTNeoXForCausalLM", "Phi3ForCausalLM"])
def test_a_rotary_embedding_that_a_class_refuses_makes_it_silent(name: str) -> None:
    """Yarn over an odd part of a head; for Phi-3, whatever is not its own."""
    assert answered(name, rope_scaling={"type": "default"}) is not None
    assert answered(name, rope_scaling=ROPE) is None


@pytest.mark.parametrize("name", [LLAMA, GPT2, GEMMA3])
@pytest.mark.parametrize("missing", ["vocabulary", "hidden", "layers", "heads"])
def test_a_configuration_without_a_size_makes_it_silent(missing: str, name: str) -> None:
    config = small_config(name, tied=False, **SIZES)
    del config[known_families()[name][missing]]  # type: ignore[literal-required]
    assert known_architecture(unread(config, shapes(name))) is None


@pytest.mark.parametrize("name", [LLAMA, GPT2, GEMMA3])
def test_doubtful_tensors_make_it_silent(name: str) -> None:
    config, good, embedding = small_config(name, False, **SIZES), shapes(name), known_families()[name]["embedding"]
    layer = {path for path in good if ".1." in path}
    extra = next(iter(layer))
    variants: list[dict[str, tuple[int, ...]]] = [
        {path: shape for path, shape in good.items() if path not in layer},
        {path: shape for path, shape in good.items() if path != embedding},
        *(good | {path: (48,)} for path in ("mystery.weight", f"{extra}.lora_A.weight", extra.replace(".1.", ".3."))),
        *(good | {path: (48,)} for path in (extra.replace(".1.", ".01."), extra.replace(".1.", ".*."))),
        *(good | {embedding: shape} for shape in ((81, 48), (80, 24), (48, 80), (80,), (80, 48, 1))),
        {},
    ]
    assert known_architecture(unread(config, good)) is not None
    assert [known_architecture(unread(config, tensors)) for tensors in variants] == [None] * len(variants)


def test_buffers_that_older_versions_stored_are_known() -> None:
    tensors = shapes(GPT2) | {f"transformer.h.{layer}.attn.bias": (1, 1, 64, 64) for layer in range(3)}
    config = small_config(GPT2, tied=False, **SIZES)
    assert known_architecture(unread(config, tensors)) == asked(config)


def test_activations_have_no_parameters() -> None:
    assert [name for name in sorted(ACTIVATIONS) if list(ACT2FN[name].parameters())] == []


def test_a_plan_for_a_well_known_architecture_loads_no_transformers(tmp_path: Path) -> None:
    base, model = write_family(tmp_path, sizes=(0.1,))
    code = f"""
import sys
from widen.checkpoint import Checkpoint
from widen.plan import make_plan
from widen.settings import Settings
plan = make_plan(Checkpoint.open({str(base)!r}), [Checkpoint.open({str(model)!r})], Settings())
assert len(plan.tensors) == 21, len(plan.tensors)
assert not {{"torch", "transformers", "huggingface_hub"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TABLE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
