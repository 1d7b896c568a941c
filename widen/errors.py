"""The errors of the merge library.

    WidenError                 exit code 1: a bug of ours, unless a subclass says otherwise
    +-- RecipeError            2: a usage or settings mistake; nothing was read
    |   +-- OutputExists       2: the output folder belongs to something else
    +-- InputsRefused          3: a checkpoint cannot be merged as it is
    +-- EnvironmentFault       5: disk, device, network or server

Every message names the model, tensor or key, what was expected, what was found, and the next step.
"""


class WidenError(Exception):
    """Base of all errors that this project raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class RecipeError(WidenError):
    """A recipe, a setting or an argument is wrong."""

    exit_code = 2


class OutputExists(RecipeError):
    """The output folder exists and was not made by this recipe; it was left untouched."""


class InputsRefused(WidenError):
    """An input checkpoint is unsafe, damaged, or does not belong with the others."""

    exit_code = 3


class EnvironmentFault(WidenError):
    """The machine or a server cannot do what was asked: disk, device, network, registry."""

    exit_code = 5
