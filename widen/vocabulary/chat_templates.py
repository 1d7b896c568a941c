"""The output's chat template: the most common among the models', one of those known by name, or a text of one's own.

The names are mergekit's; the texts are this project's own writing of each format's published description.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from widen.checkpoint import CHAT_TEMPLATE_FILE, Checkpoint, read_json
from widen.errors import InputsRefused, RecipeError
from widen.vocabulary.vocabulary import CONFIG_FILE

AUTO = "auto"
_ALTERNATE = (
    "{%- for message in turns %}"
    "{%- if message['role'] != ('user' if loop.index0 is even else 'assistant') %}"
    "{{- raise_exception('roles must alternate: user, assistant, user, ...') }}{%- endif %}"
)
_SYSTEM_APART = (
    "{%- set system = messages[0]['content'] if messages and messages[0]['role'] == 'system' else '' %}"
    "{%- set turns = messages[1:] if system else messages %}"
)
TEMPLATES: Mapping[str, str] = {
    "alpaca": (
        "{%- for message in messages if message['role'] == 'system' %}"
        "{%- if loop.last %}{{- message['content'] | trim + '\\n\\n' }}{%- endif %}{%- endfor %}"
        "{%- set titles = {'user': 'Instruction', 'user_context': 'Input', 'assistant': 'Response'} %}"
        "{%- for message in messages if message['role'] in titles %}"
        "{{- '### ' + titles[message['role']] + ':\\n' + message['content'] | trim }}"
        "{%- if not loop.last or add_generation_prompt %}{{- '\\n\\n' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}"
    ),
    "chatml": (
        "{%- for message in messages %}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "exaone": (
        "{%- if messages and messages[0]['role'] != 'system' %}{{- '[|system|][|endofturn|]\\n' }}{%- endif %}"
        "{%- for message in messages %}{{- '[|' + message['role'] + '|]' + message['content'] }}"
        "{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '[|assistant|]' }}{%- endif %}"
    ),
    "llama3": (
        "{{- bos_token }}{%- for message in messages %}"
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
    ),
    "mistral": (
        _SYSTEM_APART + "{{- bos_token }}" + _ALTERNATE + "{%- if message['role'] == 'user' %}"
        "{{- ' [INST] ' + (system + '\\n\\n' if loop.first and system else '') + message['content'] + ' [/INST]' }}"
        "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}"
    ),
}  # fmt: skip


def mistake(asked: object) -> str | None:
    """What is wrong with a `chat_template`, or None: it is `auto`, a known name, or a Jinja text that compiles."""
    if not isinstance(asked, str) or not asked.strip():
        return f"expected `auto`, a template's name or a Jinja text, found {asked!r:.60}"
    if asked == AUTO or asked in TEMPLATES:
        return None
    if "{" not in asked:
        known = (AUTO, *TEMPLATES)
        near = get_close_matches(asked, known, 1, 0.0)[0]
        listed = ", ".join(f"`{name}`" for name in known)
        return f"unknown template `{asked:.60}`; the nearest known is `{near}` (known: {listed}, or a Jinja text)"
    return _syntax_error(asked)


def chosen_template(asked: str, checkpoints: Sequence[Checkpoint]) -> str | None:
    """The text that `asked` stands for; None where `auto` finds no model with one.

    `auto` takes the most common among the checkpoints', without the white space around it; of two equally common ones
    that of the earlier checkpoint. Raises RecipeError for what `mistake` finds.
    """
    if told := mistake(asked):
        raise RecipeError(f"chat_template: {told}")
    if asked != AUTO:
        return TEMPLATES.get(asked, asked)
    found = [text.strip() for checkpoint in checkpoints if (text := template_of(checkpoint)) and text.strip()]
    return Counter(found).most_common(1)[0][0] if found else None


def template_of(checkpoint: Checkpoint) -> str | None:
    """A checkpoint's template: a file of its own, else in the tokenizer's configuration (of several `default`)."""
    if CHAT_TEMPLATE_FILE in checkpoint.companions:
        try:
            return (checkpoint.folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputsRefused(f"{checkpoint.name}: {CHAT_TEMPLATE_FILE} is no text in UTF-8 ({error})") from error
    if CONFIG_FILE not in checkpoint.companions:
        return None
    told = read_json(checkpoint.name, checkpoint.folder / CONFIG_FILE).get("chat_template")
    if isinstance(told, list):
        told = next(
            (one.get("template") for one in told if isinstance(one, dict) and one.get("name") == "default"), None
        )
    return told if isinstance(told, str) else None


def _syntax_error(text: str) -> str | None:
    """Why Jinja cannot read it; None as well where Jinja is not installed."""
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return None

    class Generation(Extension):
        """transformers' own tag around what the assistant says."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    try:
        environment.compile(text, raw=True)
    except TemplateSyntaxError as error:
        return f"expected a Jinja text, found one that does not compile: line {error.lineno}: {error.message}"
    return None
