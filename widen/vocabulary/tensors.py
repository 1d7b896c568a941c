"""Which tensors of a checkpoint have a token a row, and where its configuration says how many: the model is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widen.architecture import Architecture, asked_once
from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused
from widen.known_architectures import known_token_tensors, spellings


@dataclass(frozen=True)
class TokenTensors:
    """rows: of the embedding. axes: by tensor, the one along which tokens lie. keys: where the number is configured."""

    rows: int
    axes: Mapping[str, int]
    keys: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint, cache: Path | None = None) -> "TokenTensors":
        """Of a checkpoint's headers and configuration; `cache` keeps what transformers was asked.

        Raises InputsRefused where no tensor has the configured number of rows, or tokens lie along an inner axis.
        """
        told = known_token_tensors(checkpoint) or asked_once(checkpoint, cache, "token-tensors", _asked)
        rows, axes = told["rows"], _axes(checkpoint, told, Architecture.of(checkpoint, cache))
        if not axes:
            raise InputsRefused(
                f"{checkpoint.name}: no tensor has the {rows} rows of its configuration's {'.'.join(told['keys'][0])}; "
                "expected an embedding of that many tokens. Correct the configuration"
            )
        for name, axis in axes.items():
            found = checkpoint.tensors[name].shape
            if len(found) <= axis or found[axis] != rows or any(size != 1 for size in found[:axis]):
                raise InputsRefused(
                    f"{checkpoint.name}: {name}: expected {rows} rows, a token each, as its configuration's "
                    f"{'.'.join(told['keys'][0])} says, found shape {list(found)}; correct the configuration"
                )
        return cls(rows, dict(sorted(axes.items())), tuple(tuple(key) for key in told["keys"]))


def _asked(checkpoint: Checkpoint) -> dict[str, Any]:
    from widen.instantiate import token_axes

    return token_axes(checkpoint)


def _axes(checkpoint: Checkpoint, told: Mapping[str, Any], architecture: Architecture) -> dict[str, int]:
    """The axis of every stored tensor with a token a row.

    A checkpoint may call a parameter otherwise than the class that reads it (another prefix, `embed_out` for
    `lm_head`): it is the one that ends alike, else the only one unknown to the class that has as many rows.
    """
    rows, prefix = told["rows"], told["prefix"]
    known = {spelling for name in architecture.kinds for spelling in spellings(name, prefix)}
    axes: dict[str, int] = {}
    missing = []
    for parameter, axis in told["axes"].items():
        found = [name for name in spellings(parameter, prefix) if name in checkpoint.tensors]
        # A head that only repeats the embedding is not merged, stored or not.
        axes |= {name: axis for name in found[:1] if not architecture.is_tied(name)}
        missing += [] if found else [(parameter, axis)]
    others = [name for name, one in checkpoint.tensors.items() if name not in known | axes.keys() and rows in one.shape]
    for parameter, axis in missing:
        alike = [name for name in others if name.split(".")[-2:] == parameter.split(".")[-2:]]
        tied = architecture.is_tied(parameter)
        chosen = alike or (
            []
            if tied
            else [
                name
                for name in others
                if len(checkpoint.tensors[name].shape) > axis and checkpoint.tensors[name].shape[axis] == rows
            ]
        )
        if len(chosen) == 1:
            axes[chosen[0]] = axis
            others.remove(chosen[0])
    if others:
        raise InputsRefused(
            f"{checkpoint.name}: {others[0]}, shape {list(checkpoint.tensors[others[0]].shape)}, is no parameter of "
            f"{(checkpoint.config.get('architectures') or ['its class'])[0]}, and has as many rows as there are tokens "
            f"({rows}); whether they are tokens cannot be told. Save the checkpoint again with transformers"
        )
    return axes
