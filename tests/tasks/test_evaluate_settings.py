"""What may be asked together, and what a backend may be told."""

from typing import Any

import pytest

from tasks.evaluate_settings import OPTIONS, EvaluateSettings, is_batch_size
from widen.errors import RecipeError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "many"}, "batch_size: expected a whole number of at least 1, `auto` or `auto:N`, found 'many'"),
        ({"max_length": 0}, "max_length: expected null or at least 1, found 0"),
        ({"fewshot_as_multiturn": True}, "fewshot_as_multiturn: turns are a chat template's; ask for one by"),
        ({"backend": "sglang"}, "backend: expected hf or vllm, found 'sglang'"),
        ({"backend_args": {"tensor_parallel_size": 2}}, "backend_args.tensor_parallel_size: nothing that hf is told"),
        ({"backend_args": {"add_bos_token": 1}}, "backend_args.add_bos_token: expected true or false, found 1"),
        (
            {"backend_args": {"max_batch_size": True}},
            "backend_args.max_batch_size: expected a whole number, found True",
        ),
        (
            {"backend": "vllm", "backend_args": {"gpu_memory_utilization": float("nan")}},
            "backend_args.gpu_memory_utilization: expected a finite number, found nan",
        ),
        ({"backend": "vllm", "backend_args": {"tensor_paralel_size": 2}}, r".* did you mean tensor_parallel_size\?"),
        ({"backend": "vllm", "max_length": 5, "backend_args": {"max_model_len": 5}}, "max_length: given as `backend_"),
        ({"backend": "vllm", "backend_args": {"dtype": "half"}}, "backend_args.dtype: refused: it is a key of its own"),
    ],
)
def test_mistakes_name_key_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^evaluate\.{message}"):
        EvaluateSettings(("task",), **change)


@pytest.mark.parametrize("backend", OPTIONS)
@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code", "model", "pretrained", "revision", "tokenizer", "tokenizer_mode", "lora_local_path",
        "peft", "load_format", "quantization", "worker_cls", "logits_processors", "hf_overrides",
    ],
)  # fmt: skip
def test_nothing_lets_code_pickle_or_other_weights_in(backend: str, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^evaluate\.backend_args\.{name}: refused: .*; remove it$"):
        EvaluateSettings(("task",), backend=backend, backend_args={name: True})


def test_what_changes_a_score_is_in_the_name_of_the_measurement() -> None:
    plain = EvaluateSettings(("task",)).measured_by()
    quick = EvaluateSettings(("task",), batch_size="auto", device="cuda", threads=3, backend_args={"max_batch_size": 4})
    other = EvaluateSettings(("task",), dtype="bfloat16", max_length=99, backend_args={"add_bos_token": True})
    assert quick.measured_by() == plain
    assert other.measured_by().endswith(", hf, bfloat16, max_length 99, add_bos_token True")


def test_turns_only_matter_where_a_template_is_applied() -> None:
    one, two = (
        EvaluateSettings(("task",), apply_chat_template=True, fewshot_as_multiturn=turns) for turns in (None, True)
    )
    assert one.prompting() == two.prompting()
    assert one.multiturn
    assert not EvaluateSettings(("task",)).multiturn


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "8", "auto:0", "auto:", "automatic", None])
def test_other_batch_sizes(size: object) -> None:
    assert not is_batch_size(size)
