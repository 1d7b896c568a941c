"""What each tensor is, from the model's own module types, instantiated on the meta device: no weight is allocated."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from widen.checkpoint import CONFIG_FILE, Checkpoint
from widen.errors import InputsRefused

Kind = Literal["matrix", "embedding", "conv1d", "vector"]
"""matrix: columns are inputs (second axis). embedding, conv1d: columns are rows (tokens, inputs). vector: one row."""


@dataclass(frozen=True)
class Architecture:
    """Parameter kinds by their name in the model, and the names that only repeat another parameter."""

    kinds: Mapping[str, Kind]
    tied: frozenset[str]
    prefix: str

    def kind_of(self, name: str, shape: tuple[int, ...]) -> Kind:
        """The kind of a checkpoint's tensor.

        A checkpoint of the bare model lacks the head model's prefix. A name the model does not have (a buffer that
        older versions stored, an expert that is fused on loading) is judged by its shape.
        """
        if len(shape) < 2:
            return "vector"
        for candidate in self._spellings(name):
            if candidate in self.kinds:
                return self.kinds[candidate]
        return "matrix"

    def is_tied(self, name: str) -> bool:
        """Whether the model takes this tensor from another one, so that storing it says nothing."""
        return any(candidate in self.tied for candidate in self._spellings(name))

    def _spellings(self, name: str) -> tuple[str, ...]:
        return name, f"{self.prefix}.{name}", name.removeprefix(f"{self.prefix}.")


def full_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration with the architecture's defaults filled in. Raises InputsRefused for an unknown one."""
    return dict(_config(checkpoint).to_dict())


def describe(checkpoint: Checkpoint) -> Architecture:
    """Instantiate the checkpoint's architecture on the meta device and read off what every parameter is.

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
    return Architecture(kinds, frozenset(model.all_tied_weights_keys), model.base_model_prefix)


def _kind(module: object, dimensions: int) -> Kind:
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
