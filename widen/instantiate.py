"""Ask transformers: an architecture is instantiated on the meta device, where no weight is allocated."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from widen.checkpoint import CONFIG_FILE, Checkpoint
from widen.errors import InputsRefused

SIZE_KEY = "vocab_size"


def complete_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration with the architecture's defaults filled in. Raises InputsRefused for an unknown one."""
    return dict(_config(checkpoint, checkpoint.config).to_dict())


def instantiate(checkpoint: Checkpoint) -> tuple[dict[str, str], list[str], str]:
    """Every parameter's kind by name, the names that repeat another parameter, and the head model's prefix.

    Raises InputsRefused when transformers does not ship the architecture.
    """
    model = _model(checkpoint, _config(checkpoint, checkpoint.config))
    kinds = {
        f"{path}.{name}" if path else name: _kind(module, parameter.dim())
        for path, module in model.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    }
    return kinds, sorted(model.all_tied_weights_keys), model.base_model_prefix


def token_axes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which parameters and buffers have a token a row: by name the axis that grows where the vocabulary does.

    `rows` is the vocabulary's size, `keys` says where it stands in the configuration. Raises InputsRefused where that
    has none.
    """
    complete = complete_config(checkpoint)
    keys = _size_keys(complete)
    if not keys:
        raise InputsRefused(
            f"{checkpoint.name}: {CONFIG_FILE} has no {SIZE_KEY}; its tokens' rows cannot be told from other tensors"
        )
    rows = _at(complete, keys[0])
    keys = [key for key in keys if _at(complete, key) == rows]
    grown = resized(complete, keys, rows + 64)
    model, other = (_model(checkpoint, _config(checkpoint, config)) for config in (complete, grown))
    shapes, others = _shapes(model), _shapes(other)
    axes: dict[str, int] = {}
    for name, shape in shapes.items():
        changed = [axis for axis, (one, two) in enumerate(zip(shape, others[name], strict=True)) if one != two]
        if len(changed) == 1 and shape[changed[0]] == rows:
            axes[name] = changed[0]
    return {"rows": rows, "keys": [list(key) for key in keys], "axes": axes, "prefix": model.base_model_prefix}


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def resized(config: Mapping[str, Any], keys: list[tuple[str, ...]], rows: int) -> dict[str, Any]:
    """The configuration with another vocabulary size at `keys`."""
    changed = dict(config)
    for key in keys:
        inner = changed
        for part in key[:-1]:
            inner[part] = dict(inner.get(part) or {})
            inner = inner[part]
        inner[key[-1]] = rows
    return changed


def _size_keys(config: Mapping[str, Any], inside: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place of the vocabulary's size, the outermost first."""
    here = [(*inside, SIZE_KEY)] if type(config.get(SIZE_KEY)) is int else []
    nested = sorted(key for key, value in config.items() if isinstance(value, dict))
    return here + [found for key in nested for found in _size_keys(config[key], (*inside, key))]


def _at(config: Mapping[str, Any], key: tuple[str, ...]) -> Any:
    value: Any = config
    for part in key:
        value = value[part]
    return value


def _model(checkpoint: Checkpoint, config: Any) -> Any:
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
    with _refusing(checkpoint), torch.device("meta"):
        return model_class(config) if is_model else transformers.AutoModel.from_config(config)


def _kind(module: object, dimensions: int) -> str:
    import torch
    from transformers.pytorch_utils import Conv1D

    if dimensions < 2:
        return "vector"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    return "conv1d" if isinstance(module, Conv1D) else "matrix"


def _config(checkpoint: Checkpoint, content: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    logging.getLogger("transformers").setLevel(logging.ERROR)
    model_type = str(checkpoint.config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise InputsRefused(
            f"{checkpoint.name}: {CONFIG_FILE} has model_type {model_type!r}, which this version of transformers does "
            "not know; expected one that it ships"
        )
    with _refusing(checkpoint):
        return CONFIG_MAPPING[model_type].from_dict(dict(content))


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
