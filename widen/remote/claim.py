"""The claim on a merge's folder in a storage: somebody is at work there, so nobody removes it, and files may arrive.

Whoever makes the same merge may send into it under anybody's claim, since they send the same bytes. Once the merge is
published or refused the claim is gone, and who comes late sends nothing more.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from widen.digests import canonical_json
from widen.errors import EnvironmentFault, InputsRefused
from widen.remote.store import Store

CLAIM_FILE = "widen-claim.json"
CLAIMED_S = 86_400
"""A claim that is older is of a run that was killed."""


@contextmanager
def claimed(folder: Store) -> Iterator[None]:
    """Say, for the length of the block, that a folder of an output is worked in, so that nobody removes it.

    The claim stays when the block ends well, until the folder is published, and after a kill or a fault of the
    storage, for another run to go on; not after inputs that are refused.
    """
    ended = Event()
    _claim(folder)
    keeper = Thread(target=_keep, args=(folder, ended), name="widen-claim", daemon=True)
    keeper.start()
    try:
        yield
    except InputsRefused:
        release(folder)
        raise
    finally:
        ended.set()
        keeper.join()


def is_claimed(folder: Store) -> bool:
    """Whether somebody is at work there, or was within a day."""
    data = folder.read_all(CLAIM_FILE)
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return data is not None and time.time() - float(json.loads(data)["at"]) < CLAIMED_S
    return False


def require_claimed(folder: Store) -> None:
    """Raise EnvironmentFault for a folder that nobody is at work in, as far as this machine sees."""
    if not is_claimed(folder):
        raise EnvironmentFault(
            f"{folder}: expected {CLAIM_FILE} of the merge that is made there, found none that is a day old or less: "
            "that merge has ended, or the environment here (AWS_ENDPOINT_URL, AWS_PROFILE) names another storage than "
            "the coordinator's; nothing was sent. Compare the two, then run again"
        )


def release(folder: Store) -> None:
    """Nobody works there any more."""
    folder.remove(CLAIM_FILE)


def _keep(folder: Store, ended: Event) -> None:
    while not ended.wait(CLAIMED_S / 24):
        with suppress(EnvironmentFault):  # whoever works there will meet it as well
            _claim(folder)


def _claim(folder: Store) -> None:
    folder.write(CLAIM_FILE, canonical_json({"at": int(time.time())}).encode())
