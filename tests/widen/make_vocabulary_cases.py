"""Makes tests/mergekit_vocabulary anew: two small vocabularies, and what mergekit merges of them.

python -m tests.widen.make_vocabulary_cases PYTHON: the interpreter of an environment with mergekit
(`make bench-peers`).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from tests.build import LLAMA, changed, llama_weights
from tests.vocabularies import byte_level, permuted, with_added, write_model

FOLDER = Path(__file__).parents[1] / "mergekit_vocabulary"
SMALL = LLAMA | {
    "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 1,
}  # fmt: skip
OPTIONS = ("--no-write-model-card", "--quiet")
KEPT = ("model.safetensors", "tokenizer.json")
AVERAGE = {"merge_method": "linear", "models": [{"model": "./chat"}, {"model": "./sailor"}], "dtype": "float32"}
ARITHMETIC = AVERAGE | {"merge_method": "task_arithmetic", "base_model": "./base"}
WEIGHED = {"parameters": {"weight": 0.5}}
TOKENS = {
    "[PAD]": {"source": {"kind": "zero"}},
    "<|im_start|>": {"source": "./chat", "force": True},
    "zebra": {"source": {"kind": "model_token", "model": "./sailor", "token": "the"}},
    "Ġthe": {"source": {"kind": "model_token", "model": "./chat", "token_id": 7}, "force": True},
    "<new>": {"source": {"kind": "model_token", "model": "./base", "token": "Ġc"}},
}
CASES = {
    "union": ARITHMETIC | WEIGHED | {"tokenizer_source": "union"},
    "base": ARITHMETIC | WEIGHED | {"tokenizer_source": "base"},
    "model": ARITHMETIC | WEIGHED | {"tokenizer_source": "./sailor"},
    "tokens": ARITHMETIC | WEIGHED | {"tokenizer": {"source": "union", "tokens": TOKENS}},
    "padded": ARITHMETIC | WEIGHED | {"tokenizer": {"source": "base", "pad_to_multiple_of": 16}},
    "average": AVERAGE | {"parameters": {"weight": 1.0}, "tokenizer_source": "union", "chat_template": "chatml"},
}


def write_inputs(folder: Path) -> None:
    """A base; a chat model with two tokens more; one trained on in another language, with other words and other ids."""
    base, weights = byte_level(size=270), llama_weights(0, torch.float32, SMALL)
    chat = with_added(base, "[PAD]", "<|im_start|>")
    texts = ["zebra zebra zebra kucing kucing itu itu the the cat cat mat mat"]
    sailor = with_added(permuted(byte_level(texts, 274), 4), "<|im_start|>", "<sea>")
    for seed, (name, one) in enumerate({"base": base, "chat": chat, "sailor": sailor}.items()):
        write_model(folder / name, changed(weights, seed, 0.1) if seed else weights, one, SMALL, seed=seed)


def make(python: str) -> None:
    """Write everything into FOLDER."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_inputs(FOLDER)
    for name, configuration in CASES.items():
        (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
        with tempfile.TemporaryDirectory() as out:
            command = [python, "-m", "mergekit.scripts.run_yaml", f"{name}.yaml", out, *OPTIONS]
            subprocess.run(command, cwd=FOLDER, check=True)
            for file in KEPT:
                shutil.copyfile(Path(out, file), FOLDER / f"{name}.{file}")


if __name__ == "__main__":
    make(sys.argv[1])
