"""Ask transformers: an architecture is instantiated on the meta device, where no weight is allocated."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from widen.checkpoint import CONFIG_FILE, Checkpoint
from widen.errors import InputsRefused


def complete_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration with the architecture's defaults filled in. Raises InputsRefused for an unknown one."""
    return dict(_config(checkpoint).to_dict())


def instantiate(checkpoint: Checkpoint) -> tuple[dict[str, str], list[str], str]:
    """Every parameter's kind by name, the names that repeat another parameter, and the head model's prefix.

    Raises InputsRefused when transformers does not ship the architecture.
    """
    import torch
    import transformers

    names = checkpoint.config.get("architectures") or ["AutoModel"]
    model_class: Any = getattr(transformers, str(names[0]), None)
    is_model = isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)
    if not is_model and model_class is not transformers.AutoModel:
        raise InputsRefused(
            f"{checkpoint.name}: {CONFIG_FILE} names architecture {names[0]}, which transformers "
            f"{transformers.__version__} does not ship; expected one of its model classes"
        )
    config = _config(checkpoint)
    with _refusing(checkpoint), torch.device("meta"):
        model = model_class(config) if is_model else transformers.AutoModel.from_config(config)
    kinds = {
        f"{path}.{name}" if path else name: _kind(module, parameter.dim())
        for path, module in model.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }
    return kinds, sorted(model.all_tied_weights_keys), model.base_model_prefix


def _kind(module: object, dimensions: int) -> str:
    import torch
    from transformers.pytorch_utils import Conv1D

    if dimensions < 2:
        return "vector"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    return "conv1d" if isinstance(module, Conv1D) else "matrix"


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import CONFIG_MAPPING

    logging.getLogger("transformers").setLevel(logging.ERROR)
    model_type = str(checkpoint.config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise InputsRefused(
            f"{checkpoint.name}: {CONFIG_FILE} has model_type {model_type!r}, which this version of transformers does "
            "not know; expected one that it ships"
        )
    with _refusing(checkpoint):
        return CONFIG_MAPPING[model_type].from_dict(dict(checkpoint.config))


@contextmanager
def _refusing(checkpoint: Checkpoint) -> Iterator[None]:
    """Whatever an architecture's code says of a configuration that makes no sense becomes a refusal."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, StrictDataclassError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        said = str(error).strip().replace("\n", " ")
        raise InputsRefused(
            f"{checkpoint.name}: {CONFIG_FILE} does not describe a {checkpoint.config.get('model_type')} model: {said}"
        ) from error
