"""Values of the section `evaluate` that are more than a number or text; a ValueError says what was expected."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tasks.evaluate_settings import BATCH, is_batch_size


def batch_size(value: object) -> int | str:
    """What lm-eval takes for one."""
    if not is_batch_size(value) or not isinstance(value, int | str):
        raise ValueError(BATCH)
    return value


def template(value: object) -> bool | str:
    """Whether a chat template is applied, or which."""
    if not isinstance(value, bool | str) or value == "":
        raise ValueError("true, false or a template's name")
    return value


def scalars(value: object) -> object:
    """Names with plain values, as a command line would give them."""
    if not isinstance(value, dict) or not all(isinstance(one, bool | int | float | str) for one in value.values()):
        raise ValueError("a mapping of names to true, false, numbers or text")
    return value


BatchSize = Annotated[int | str, BeforeValidator(batch_size)]
Template = Annotated[bool | str, BeforeValidator(template)]
Scalars = Annotated[dict[str, Any], BeforeValidator(scalars)]
