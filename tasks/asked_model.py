"""The model as lm-eval asks it: checked first, then behind one of lm-eval's model classes."""

import os
from pathlib import Path
from typing import Any

from tasks.checked_model import load_checked
from tasks.evaluate_settings import EvaluateSettings
from tasks.sooner import Sooner
from widen.errors import EnvironmentFault, InputsRefused, RecipeError


def ask_for(model: str, folder: Path, settings: EvaluateSettings) -> Any:
    """lm-eval's model (`lm_eval.api.model.LM`) on the checkpoint in `folder`, by the backend that `settings` name.

    Both backends get a checkpoint whose tensors were checked against its architecture, read from safetensors, with the
    tokenizer that lies beside them. Raises InputsRefused for a checkpoint that fails, RecipeError for a chat template
    that the tokenizer lacks or that takes no system instruction, EnvironmentFault for a device or backend that is not
    there.
    """
    template = _template(model, folder, settings)
    if settings.backend == "vllm":
        return _vllm(model, folder, settings, template)
    from lm_eval.models.huggingface import HFLM

    loaded, tokenizer = load_checked(model, folder, settings.dtype, settings.device)
    if template is not None:
        tokenizer.chat_template = template
    return type("Model", (Sooner, HFLM), {})(
        pretrained=loaded,
        tokenizer=tokenizer,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        **settings.backend_args,
    )


def _vllm(model: str, folder: Path, settings: EvaluateSettings, template: str | None) -> Any:
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    load_checked(model, folder, settings.dtype, "cpu")  # vLLM would not say what is missing or NaN either
    arguments = {"max_length": settings.max_length} if settings.max_length is not None else {}
    try:
        from lm_eval.models.vllm_causallms import VLLM

        asked = VLLM(
            pretrained=str(folder),
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            load_format="safetensors",
            trust_remote_code=False,
            **arguments,
            **settings.backend_args,
        )
    except (ImportError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise EnvironmentFault(
            f"{model}: vLLM cannot serve it here ({type(error).__name__}: {str(error).strip()}); see "
            "evaluate.backend_args, or write `backend: hf`"
        ) from error
    if template is not None:
        asked.tokenizer.chat_template = asked.hf_chat_template = template
    return asked


def _template(model: str, folder: Path, settings: EvaluateSettings) -> str | None:
    """The text of the tokenizer's own template that was asked for; None where none was.

    lm-eval takes a template's name, checks it, and goes on to render by the tokenizer's default: the named one is
    chosen here instead.
    """
    if not settings.apply_chat_template:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputsRefused(f"{model}: expected its tokenizer at {folder}, found: {str(error).strip()}") from error
    held = tokenizer.chat_template or {}
    named = held if isinstance(held, dict) else {"default": held}
    wanted = settings.apply_chat_template if isinstance(settings.apply_chat_template, str) else "default"
    if wanted not in named:
        found = ", ".join(sorted(named)) or "none"
        raise RecipeError(
            f"{model}: evaluate.apply_chat_template asks for the template {wanted!r} of its tokenizer, which holds "
            f"{found}; name one of these, leave the key out, or give the checkpoint a template"
        )
    text: str = named[wanted]
    if settings.system_instruction:
        _require_system(model, tokenizer, text, settings.system_instruction)
    return text


def _require_system(model: str, tokenizer: Any, template: str, instruction: str) -> None:
    """lm-eval drops a system message that a template refuses; what was asked for must not get lost."""
    from jinja2.exceptions import TemplateError

    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": "?"}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    except TemplateError as error:
        raise RecipeError(_dropped(model, str(error))) from error
    if instruction.strip() not in rendered:
        raise RecipeError(_dropped(model, "it leaves it out"))


def _dropped(model: str, why: str) -> str:
    return (
        f"{model}: its chat template takes no system message ({why}), so evaluate.system_instruction would be lost; "
        "leave one of the two out"
    )
