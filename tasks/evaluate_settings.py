"""What to ask a model and how; which of it can change a score, and what may be handed on to a backend."""

import difflib
import importlib.metadata
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.split import Part
from widen.errors import EnvironmentFault, RecipeError

Scalar = bool | int | float | str
BATCH = "a whole number of at least 1, `auto` or `auto:N`"


class Asked(Protocol):
    """The settings that must agree with each other, by whatever name a recipe or a caller holds them."""

    @property
    def apply_chat_template(self) -> bool | str: ...  # noqa: D102 - named as in lm-eval
    @property
    def fewshot_as_multiturn(self) -> bool | None: ...  # noqa: D102
    @property
    def max_length(self) -> int | None: ...  # noqa: D102
    @property
    def backend(self) -> str: ...  # noqa: D102
    @property
    def backend_args(self) -> Mapping[str, Scalar]: ...  # noqa: D102


@dataclass(frozen=True)
class EvaluateSettings:
    """What to ask and how. `include_path` holds lm-eval task YAML with its data; other names are lm-eval's own tasks.

    `apply_chat_template` is true or, of a tokenizer with several templates, a name; `fewshot_as_multiturn` None means
    lm-eval's own choice: one turn an example wherever a template is applied. `max_length` bounds a prompt's tokens;
    None leaves the model's. `backend` is "hf" (transformers) or "vllm", `backend_args` lm-eval's arguments for its
    model class, of those in `OPTIONS`. `threads` are the processor's, for this one model; None leaves PyTorch's own
    choice. `part` asks one side of a split of every task's documents; None asks all.

    Raises RecipeError for no task, a number out of range, or settings that contradict each other.
    """

    tasks: tuple[str, ...]
    include_path: Path | None = None
    dtype: str = "float32"
    batch_size: int | str = 64
    limit: int | None = None
    num_fewshot: int | None = None
    device: str = "cpu"
    threads: int | None = None
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    max_length: int | None = None
    backend: str = "hf"
    backend_args: Mapping[str, Scalar] = field(default_factory=dict)
    part: Part | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("evaluate.tasks: expected at least one task, found none")
        for name, least in (("limit", 1), ("num_fewshot", 0), ("max_length", 1)):  # lm-eval reads a limit of 0 as "all"
            found = getattr(self, name)
            if found is not None and found < least:
                raise RecipeError(f"evaluate.{name}: expected null or at least {least}, found {found}")
        if not is_batch_size(self.batch_size):
            raise RecipeError(f"evaluate.batch_size: expected {BATCH}, found {self.batch_size!r}")
        for where, text in mistakes(self):
            raise RecipeError(f"{'.'.join(('evaluate', *where))}: {text}")

    @property
    def multiturn(self) -> bool:
        """Whether each example is a turn of its own, where a chat template is applied."""
        return bool(self.apply_chat_template) and self.fewshot_as_multiturn is not False

    @property
    def gpus(self) -> int:
        """How many GPUs one model is spread over."""
        spread = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
        return math.prod(int(self.backend_args.get(name, 1)) for name in spread)

    def prompting(self) -> dict[str, Any]:
        """Everything here that can change what a model is asked of a task, as JSON can hold it."""
        return {
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.apply_chat_template,
            "fewshot_as_multiturn": self.multiturn,
            "system_instruction": self.system_instruction,
            **({"part": self.part.content()} if self.part else {}),
        }

    def measured_by(self) -> str:
        """The harness, its backend and its arithmetic, with versions: what scores must share to be compared.

        Batches, devices and how a model is spread over them are not in it. Raises EnvironmentFault when the backend is
        not installed.
        """
        parts = ["lm-eval " + importlib.metadata.version("lm_eval"), self._backend_version(), self.dtype]
        if self.max_length is not None:
            parts.append(f"max_length {self.max_length}")
        known = OPTIONS[self.backend]
        parts += [f"{name} {value}" for name, value in sorted(self.backend_args.items()) if known[name].scores]
        return ", ".join(parts)

    def _backend_version(self) -> str:
        if self.backend == "hf":
            return "hf"
        try:
            return f"{self.backend} {importlib.metadata.version(self.backend)}"
        except importlib.metadata.PackageNotFoundError as error:
            raise EnvironmentFault(
                "evaluate.backend: vllm is not installed here; install it (pip install 'lm_eval[vllm]'), or write "
                "`backend: hf`"
            ) from error


@dataclass(frozen=True)
class Option:
    """An argument of lm-eval's model class: its type, and whether it can change a score beyond rounding."""

    kind: type
    scores: bool


_BOTH = {
    "add_bos_token": Option(bool, True),
    "prefix_token_id": Option(int, True),
    "enable_thinking": Option(bool, True),
    "think_end_token": Option(str, True),
    "max_batch_size": Option(int, False),
}
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "hf": _BOTH,
    "vllm": _BOTH
    | {
        "max_model_len": Option(int, True),
        "max_gen_toks": Option(int, True),
        "truncation_side": Option(str, True),
        "kv_cache_dtype": Option(str, True),
        "tensor_parallel_size": Option(int, False),
        "pipeline_parallel_size": Option(int, False),
        "data_parallel_size": Option(int, False),
        "gpu_memory_utilization": Option(float, False),
        "cpu_offload_gb": Option(float, False),
        "block_size": Option(int, False),
        "max_num_seqs": Option(int, False),
        "max_num_batched_tokens": Option(int, False),
        "enforce_eager": Option(bool, False),
        "enable_prefix_caching": Option(bool, False),
        "enable_chunked_prefill": Option(bool, False),
        "enable_expert_parallel": Option(bool, False),
        "disable_custom_all_reduce": Option(bool, False),
    },
}
"""What a backend may be told. Nothing here names another model, tokenizer or file, or lets code or pickle in."""

_KEYS_OF_OUR_OWN = {"batch_size", "device", "dtype", "max_length"}
_NEVER = {
    "trust_remote_code": "no code of a checkpoint is run",
    **dict.fromkeys(
        (
            "model",
            "pretrained",
            "revision",
            "code_revision",
            "subfolder",
            "peft",
            "delta",
            "gguf_file",
            "lora_local_path",
        ),
        "the weights scored are the checkpoint that was checked, and no others",
    ),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_mode", "tokenizer_revision"), "the tokenizer is the one that lies in the checkpoint"
    ),
    **dict.fromkeys(("load_format", "quantization"), "weights are read from safetensors, as they are"),
    **dict.fromkeys(
        ("worker_cls", "worker_extension_cls", "logits_processors", "hf_overrides", "distributed_executor_backend"),
        "it would let other code in",
    ),
}


def is_batch_size(value: object) -> bool:
    """Whether lm-eval takes `value` for a batch size: a number, or `auto` with how often to measure anew."""
    if isinstance(value, str):
        return re.fullmatch(r"auto(:[1-9][0-9]{0,3})?", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def mistakes(asked: Asked) -> Iterator[tuple[tuple[str, ...], str]]:
    """What in `asked` cannot be followed or contradicts the rest: the key below `evaluate`, and what is wrong."""
    if asked.fewshot_as_multiturn is not None and not asked.apply_chat_template:
        yield (
            ("fewshot_as_multiturn",),
            "turns are a chat template's; ask for one by `apply_chat_template`, or leave it out",
        )
    if asked.backend not in OPTIONS:
        yield ("backend",), f"expected {' or '.join(OPTIONS)}, found {asked.backend!r}"
        return
    for name, value in asked.backend_args.items():
        wrong = _wrong(asked.backend, name, value)
        if wrong:
            yield ("backend_args", name), wrong
    if asked.max_length is not None and "max_model_len" in asked.backend_args:
        yield ("max_length",), "given as `backend_args.max_model_len` too; keep one of them"


def _wrong(backend: str, name: str, value: object) -> str | None:
    """What is wrong with one argument for a backend, if anything."""
    options = OPTIONS[backend]
    if name in _NEVER:
        return f"refused: {_NEVER[name]}; remove it"
    if name in _KEYS_OF_OUR_OWN:
        return "refused: it is a key of its own, or of the command; write it there"
    if name not in options:
        near = difflib.get_close_matches(name, options, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"nothing that {backend} is told from a recipe; {hint}known: {', '.join(sorted(options))}"
    kind = options[name].kind
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
        return f"expected {words[kind]}, found {value!r}"
    return None
