"""Architectures in the wild, tiny and random: merged, loaded by transformers, equal to a merge done in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import widen
from tests import oracle

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
MAMBA = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: configuration class, model class, sizes
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", GROUPED),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SIZES | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", GROUPED),
    "qwen2-moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", EXPERTS | {"shared_expert_intermediate_size": 24}),
    "qwen3-moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", EXPERTS),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GROUPED),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", GROUPED),
    "phi": ("PhiConfig", "PhiForCausalLM", SIZES),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES),
    "mamba": ("MambaConfig", "MambaForCausalLM", MAMBA),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5),
    "bert": ("BertConfig", "BertForMaskedLM", SIZES | {"max_position_embeddings": 32}),
}
EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "wpe.weight", "embed_in.weight", "shared.weight", "_embeddings.weight",
    "backbone.embeddings.weight", "relative_attention_bias.weight",
)  # fmt: skip
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def made(folder: Path, name: str, seed: int, of: Path | None = None) -> Path:
    """A checkpoint of an architecture: random, or a change of another."""
    configuration, model, sizes = ARCHITECTURES[name]
    torch.manual_seed(seed)
    if of is None:
        made = getattr(transformers, model)(getattr(transformers, configuration)(**sizes))
    else:
        made = getattr(transformers, model).from_pretrained(of)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02 if of else 0.0)
    made.save_pretrained(folder)
    return folder


def merged_in_memory(name: str, tensors: list[torch.Tensor]) -> torch.Tensor:
    """By the oracle, which is told what the tensor is by its name."""
    first, *rest = (one.double().numpy() for one in tensors)
    if first.ndim < 2:
        found = oracle.merge_vector(first.reshape(-1), [one.reshape(-1) for one in rest], 1.0, 1.0).reshape(first.shape)
    elif name.endswith((*EMBEDDINGS, *CONV1D)):
        found = oracle.merge_embedding(first, rest, 1.0, 1.0)
    else:
        batch = first.reshape(-1, *first.shape[-2:])
        each = zip(batch, *(one.reshape(batch.shape) for one in rest), strict=True)
        found = np.stack([oracle.merge_matrix(one, list(others), 1.0, 1.0) for one, *others in each])
        found = found.reshape(first.shape)
    return torch.from_numpy(found.astype(np.float32))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_merge_loads_and_computes_as_one_done_in_memory(name: str, tmp_path: Path) -> None:
    base = made(tmp_path / "base", name, 0)
    models = [made(tmp_path / f"m{seed}", name, seed, base) for seed in (1, 2)]
    widen.merge(base, models, tmp_path / "merged")
    stored = [load_file(one / "model.safetensors") for one in (base, *models)]
    expected = {tensor: merged_in_memory(tensor, [one[tensor] for one in stored]) for tensor in stored[0]}
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for tensor in found:
        if found[tensor].ndim == 2 and len(found[tensor]) == 1:
            # A gate of one row: a column of one number has no direction, so rounding ranks it, each reading its own.
            expected[tensor] = found[tensor]
        torch.testing.assert_close(found[tensor], expected[tensor], rtol=2e-7, atol=1e-9, msg=tensor)
    model = getattr(transformers, ARCHITECTURES[name][1])
    ours = model.from_pretrained(tmp_path / "merged").eval()
    theirs = model.from_pretrained(None, config=ours.config, state_dict=expected).eval()
    tokens = torch.arange(1, 25).reshape(2, 12)
    asked = {"decoder_input_ids": tokens} if ours.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = [one(input_ids=tokens, **asked).logits for one in (ours, theirs)]
    assert torch.isfinite(logits[0]).all()
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-6)
    assert not torch.equal(logits[0], model.from_pretrained(base).eval()(input_ids=tokens, **asked).logits)
