"""Makes tests/peft anew: small bases, LoRA adapters on them, and PEFT's own merges in float64 and in float32.

python tests/widen/make_peft_cases.py, by an interpreter that has peft 0.21, transformers and torch.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parents[1] / "peft"
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 20,
    "tie_word_embeddings": False, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2,
    "vocab_size": 20, "n_positions": 16, "n_inner": 12, "tie_word_embeddings": True,
}  # fmt: skip
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": ("llama", {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj"]}),
    "rslora": ("llama", {"r": 5, "lora_alpha": 3, "use_rslora": True, "target_modules": LINEAR}),
    "patterns": (
        "llama",
        {
            "r": 2, "lora_alpha": 5, "target_modules": LINEAR,
            "rank_pattern": {"down_proj": 5, r"model\.layers\.[01]\.self_attn\.q_proj": 1, "self_attn.q_proj": 4},
            "alpha_pattern": {"layers.1.mlp.up_proj": 11, "k_proj": 9},
        },
    ),
    "dora": (
        "llama", {"r": 3, "lora_alpha": 4, "use_dora": True, "target_modules": LINEAR, "layers_to_transform": [1]}
    ),
    "embedding": ("llama", {"r": 3, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "saved": (
        "llama",
        {"r": 2, "lora_alpha": 6, "target_modules": ["up_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "conv1d": ("gpt2", {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn", "c_fc", "c_proj"], "bias": "all"}),
    "conv1d-dora": (
        "gpt2", {"r": 2, "lora_alpha": 5, "use_dora": True, "use_rslora": True, "target_modules": ["c_attn", "wte"]}
    ),
    "conv1d-bias": (
        "gpt2", {"r": 2, "lora_alpha": 5, "lora_bias": True, "bias": "none", "target_modules": ["c_attn", "c_fc"]}
    ),
    "conv1d-biases": (
        "gpt2", {"r": 2, "lora_alpha": 5, "lora_bias": True, "bias": "all", "target_modules": ["c_attn", "c_fc"]}
    ),
    "bias-only": ("gpt2", {"r": 2, "lora_alpha": 5, "bias": "lora_only", "target_modules": ["c_fc"]}),
}  # fmt: skip


def model_of(base: str, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """The base with its stored weights, in another type."""
    config = json.loads((FOLDER / base / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0])(
        transformers.CONFIG_MAPPING[config["model_type"]].from_dict(config)
    )
    missing, unexpected = model.load_state_dict(load_file(FOLDER / base / "model.safetensors"), strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    return model.to(dtype).eval()


def write_base(name: str, config: dict[str, object], dtype: torch.dtype) -> None:
    folder = FOLDER / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = getattr(transformers, config["architectures"][0])(
        transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    )
    generator = torch.Generator().manual_seed(1)
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    weights = {
        key: torch.randn(one.shape, generator=generator).mul(0.1).to(dtype)
        for key, one in model.state_dict().items()
        if key not in tied and one.is_floating_point()
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def randomised(model: PeftModel) -> None:
    """As after a training: everything that trains has other values."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1).add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def write_case(name: str, base: str, given: dict[str, object]) -> None:
    torch.manual_seed(3)
    model = get_peft_model(model_of(base, torch.float32), LoraConfig(task_type="CAUSAL_LM", **given))
    randomised(model)
    folder = FOLDER / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"].sort()  # a set's order otherwise
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    before = {key: one.double() for key, one in load_file(FOLDER / base / "model.safetensors").items()}
    for dtype in (torch.float64, torch.float32):
        loaded = PeftModel.from_pretrained(model_of(base, dtype), folder, autocast_adapter_dtype=False)
        merged = loaded.merge_and_unload().state_dict()
        changed = {
            key: one.clone()
            for key, one in merged.items()
            if key in before and not torch.equal(one.double(), before[key])
        }
        assert changed
        assert all(one.dtype == dtype for one in changed.values())
        save_file(changed, folder / f"merged-{str(dtype).removeprefix('torch.')}.safetensors")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_base("llama", LLAMA, torch.bfloat16)
    write_base("gpt2", GPT2, torch.float32)
    for name, (base, given) in CASES.items():
        write_case(name, base, given)
    (FOLDER / "cases.json").write_text(json.dumps({name: base for name, (base, _) in CASES.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
