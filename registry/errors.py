"""The errors of the registry room.

RegistryError              exit code 5: the registry or its storage cannot do what was asked
+-- RegistryUnreachable    5: nobody answers at the registry's address; asking again later may help
+-- HistoryAltered         5: a model's history was altered, or its alias moved by other means
+-- GateError              2: a gate that would pass vacuously, or compares what cannot be compared
|   +-- ChampionMoved      2: the champion changed between the scores and the gate
+-- NotRegistered          2: no such model, version or alias
+-- PromotionRefused       4: the gate's verdict does not allow the move
+-- NotVerified            4: what is there is not what was registered
"""


class RegistryError(Exception):
    """Base of this room's errors; `exit_code` is what the command returns."""

    exit_code = 5


class RegistryUnreachable(RegistryError):
    """Nobody answers at the registry's address. The only error here that is worth a retry."""


class HistoryAltered(RegistryError):
    """A model's history, or the alias that it speaks of, was changed by other means than a promotion or a rollback."""


class GateError(RegistryError):
    """A clause names a task, baseline or document set that is missing or does not match."""

    exit_code = 2


class ChampionMoved(GateError):
    """The champion changed after its scores were taken; the same run again compares with the new one."""


class NotRegistered(RegistryError):
    """The registry holds no such model, version or alias."""

    exit_code = 2


class PromotionRefused(RegistryError):
    """The gate did not pass, so the alias was not moved."""

    exit_code = 4


class NotVerified(RegistryError):
    """A record, a file, an input or a re-merge is not what was registered."""

    exit_code = 4
