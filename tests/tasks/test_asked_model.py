"""The model as lm-eval asks it: chat templates against lm-eval's own rendering, batches, and vLLM's door."""

import dataclasses
import importlib.metadata
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from registry.scorecard import Scorecard
from tasks.evaluate import EvaluateSettings, evaluate
from widen.errors import EnvironmentFault, InputsRefused, RecipeError

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
SETTINGS = EvaluateSettings(("app_en",), QUICKSTART / "evaluation", batch_size=8, limit=2)
PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """The tagger with a chat template of its own."""
    return with_template(tmp_path / "chat", PLAIN)


def with_template(folder: Path, template: object) -> Path:
    shutil.copytree(QUICKSTART / "checkpoints" / "tagger-v1", folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    return folder


def asked(folder: Path, tmp_path: Path, **change: Any) -> tuple[Scorecard, list[dict[str, Any]]]:
    out = tmp_path / "out" / "card.json"
    settings = dataclasses.replace(SETTINGS, **change)
    evaluate.fn("chat", folder, folder.name, settings, tmp_path / "kept" / "scorecards", out)
    samples = out.with_suffix(".samples.jsonl").read_text(encoding="utf8").splitlines()
    return Scorecard.from_json(out.read_text(encoding="utf8")), [json.loads(line) for line in samples]


def test_a_template_wraps_every_turn_and_answers_are_lm_evals_own(chat: Path, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tasks.checked_model import load_checked

    card, samples = asked(chat, tmp_path, apply_chat_template=True, system_instruction="Be brief.", num_fewshot=1)
    prompt = samples[0]["arguments"][0][0]
    assert prompt.startswith("<system>Be brief.\n<user>")
    assert prompt.count("<user>") == 2
    assert prompt.endswith("\nApp:\n<assistant>")
    folder = tmp_path / "absolute"
    folder.mkdir()
    text = (QUICKSTART / "evaluation" / "app_en.yaml").read_text()
    (folder / "t.yaml").write_text(text.replace("help.en", str(QUICKSTART / "evaluation" / "help.en")))
    loaded, tokenizer = load_checked("chat", chat, "float32", "cpu")
    theirs = simple_evaluate(
        HFLM(loaded, tokenizer=tokenizer, batch_size=8), tasks=["app_en"], limit=2, num_fewshot=1,
        system_instruction="Be brief.", apply_chat_template=True,
        task_manager=TaskManager(include_path=folder, include_defaults=False), bootstrap_iters=0,
    )  # fmt: skip
    assert theirs is not None
    assert [one["prompt_hash"] for one in samples] == [one["prompt_hash"] for one in theirs["samples"]["app_en"]]
    ours = [one["resps"][0][0][0] for one in samples]
    assert ours == pytest.approx([one["resps"][0][0][0] for one in theirs["samples"]["app_en"]], rel=1e-4)
    assert card.harness.endswith(", hf, float32")


@pytest.mark.slow
def test_examples_in_one_turn_are_another_prompt(chat: Path, tmp_path: Path) -> None:
    turns = asked(chat, tmp_path, apply_chat_template=True, num_fewshot=1)
    one_turn = asked(chat, tmp_path, apply_chat_template=True, num_fewshot=1, fewshot_as_multiturn=False)
    assert [rows[0]["arguments"][0][0].count("<user>") for _, rows in (turns, one_turn)] == [2, 1]
    assert turns[0].tasks[0].prompts_hash != one_turn[0].tasks[0].prompts_hash
    assert turns[0].tasks[0].task_hash == one_turn[0].tasks[0].task_hash


def test_a_named_template_is_the_one_applied(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": PLAIN}, {"name": "loud", "template": "LOUD " + PLAIN}]
    folder = with_template(tmp_path / "chat", templates)
    starts = [
        asked(folder, tmp_path, apply_chat_template=name)[1][0]["arguments"][0][0].startswith("LOUD <user>")
        for name in ("loud", True)
    ]
    assert starts == [True, False]
    with pytest.raises(
        RecipeError, match=r"chat: evaluate\.apply_chat_template .* 'soft' .* holds default, loud; name"
    ):
        asked(folder, tmp_path, apply_chat_template="soft")


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the template 'default' of its tokenizer, which holds none;"):
        asked(QUICKSTART / "checkpoints" / "tagger-v1", tmp_path, apply_chat_template=True)


@pytest.mark.parametrize(
    ("template", "why"),
    [(NO_SYSTEM, "no system role"), (PLAIN.replace("messages", "messages[1:]", 1), "leaves it out")],
)
def test_a_system_instruction_does_not_get_lost(tmp_path: Path, template: str, why: str) -> None:
    folder = with_template(tmp_path / "chat", template)
    with pytest.raises(RecipeError, match=rf"chat: its chat template takes no system message \(.*{why}"):
        asked(folder, tmp_path, apply_chat_template=True, system_instruction="Be brief.")


@pytest.mark.slow
def test_batches_found_by_lm_eval_give_the_same_scores_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, both = QUICKSTART / "checkpoints" / "tagger-v1", {"tasks": ("app_en", "bpb_en"), "max_length": 64}
    plain, _ = asked(folder, tmp_path / "plain", **both)
    found, _ = asked(folder, tmp_path / "auto", **both, batch_size="auto:2", backend_args={"max_batch_size": 2})
    assert capfd.readouterr() == ("", "")
    for one, two in zip(plain.tasks, found.tasks, strict=True):
        assert [d.score for d in two.documents] == pytest.approx([d.score for d in one.documents], rel=1e-4)
    assert plain.harness.endswith("hf, float32, max_length 64")


# vLLM cannot run here: what lm-eval's class for it is told, and what happens before, is tested on a stand-in.


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """lm-eval's module for vLLM, with a class that answers by transformers and keeps what it was told."""
    from lm_eval.models.huggingface import HFLM

    told: list[dict[str, Any]] = []

    class VLLM(HFLM):
        hf_chat_template = None

        def __init__(self, pretrained: str, **arguments: Any) -> None:
            from transformers import AutoModelForCausalLM

            told.append({"pretrained": pretrained, **arguments})
            super().__init__(
                AutoModelForCausalLM.from_pretrained(pretrained, dtype=arguments["dtype"]),
                batch_size=arguments["batch_size"],
            )

    module = types.ModuleType("lm_eval.models.vllm_causallms")
    module.VLLM = VLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.11.0" if name == "vllm" else found(name))
    return told


def test_vllm_gets_the_folder_and_the_arguments(chat: Path, tmp_path: Path, vllm: list[dict[str, Any]]) -> None:
    arguments = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8, "max_model_len": 128}
    card, samples = asked(chat, tmp_path, backend="vllm", backend_args=arguments, apply_chat_template=True)
    fixed = {"dtype": "float32", "batch_size": 8, "load_format": "safetensors", "trust_remote_code": False}
    assert vllm == [{"pretrained": str(chat), **fixed, **arguments}]
    assert card.harness.endswith(", vllm 0.11.0, float32, max_model_len 128")  # not how it was spread over devices
    assert samples[0]["arguments"][0][0].startswith("<user>")


@pytest.mark.usefixtures("vllm")
def test_vllm_applies_the_named_template(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": PLAIN}, {"name": "loud", "template": "LOUD " + PLAIN}]
    folder = with_template(tmp_path / "chat", templates)
    _, samples = asked(folder, tmp_path, backend="vllm", apply_chat_template="loud")
    assert samples[0]["arguments"][0][0].startswith("LOUD <user>")


def test_vllm_gets_no_damaged_checkpoint(chat: Path, tmp_path: Path, vllm: list[dict[str, Any]]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(chat / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, chat / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputsRefused, match=r"chat: not scored, 1 tensor.*\n  model\.norm\.weight: expected finite"):
        asked(chat, tmp_path, backend="vllm")
    assert vllm == []


def test_vllm_s_own_refusal_is_told(
    chat: Path, tmp_path: Path, vllm: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(sys.modules["lm_eval.models.vllm_causallms"].VLLM, "__init__", fail)
    with pytest.raises(EnvironmentFault, match=r"chat: vLLM cannot serve it here \(RuntimeError: no GPU\); see"):
        asked(chat, tmp_path, backend="vllm")
    assert vllm == []


def test_without_vllm_the_next_step_is_told(chat: Path, tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"evaluate\.backend: vllm is not installed here; install it .* `backend: hf`"
    ):
        asked(chat, tmp_path, backend="vllm")
