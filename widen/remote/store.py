"""A folder in a storage: what is in it, ranges of its objects as they were when it was opened, what is put there."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from widen.errors import EnvironmentFault
from widen.remote.address import join, require_address, shown
from widen.remote.driver import Driver, open_driver
from widen.remote.faults import Changed, CutShort, fault_of, is_missing, may_pass

T = TypeVar("T")
PAUSES_S = (0.5, 2.0, 5.0)
_TAGS = ("ETag", "etag", "generation", "content_md5", "md5Hash", "checksum")
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created", "modificationTime")


@dataclass(frozen=True)
class Identity:
    """What tells that an object is still the one: its size in bytes, and the storage's tag of its content or version.

    modified_ns: when it was written, where the tag is no more than that; 0 for a tag that a new content never shares.
    """

    size: int
    tag: str
    modified_ns: int = 0


class Store:
    """The folder at `url`. Threads may share it; every call raises EnvironmentFault naming the URL for what the storage
    does not do, after trying again where that may help.
    """

    def __init__(self, url: str) -> None:
        self.url = require_address(url)
        self._opened: tuple[int, Driver, str] | None = None

    def within(self, folder: str) -> "Store":
        """A folder inside, through the same connections."""
        inside = Store(join(self.url, folder))
        self._driver()
        if self._opened is not None:
            process, driver, path = self._opened
            inside._opened = process, driver, join(path, folder)
        return inside

    def listing(self) -> dict[str, Identity | None]:
        """What lies directly in it, by name, sorted: objects, and None for a folder. Empty where there is nothing."""

        def ask() -> dict[str, Identity | None]:
            driver, path = self._driver()
            found = {name: None if one["type"] == "directory" else _identity(one) for name, one in driver.ls(path)}
            return dict(sorted(found.items()))

        return self._asked("", ask, {})

    def look(self, name: str) -> Identity | None:
        """An object as it is now; None where there is none."""
        return self._asked(name, lambda: _identity(self._call(lambda driver, path: driver.info(path), name)), None)

    def read(self, name: str, start: int, stop: int, identity: Identity, put: Callable[[int, bytes], None]) -> None:
        """Bytes `start` to `stop` of an object, as `put(place after start, piece)`, in order.

        What was cut short is asked for from there on. Raises InputsRefused when the object is another than `identity`.
        """
        done = 0

        def take(piece: bytes) -> None:
            nonlocal done
            put(done, piece)
            done += len(piece)

        def ask(driver: Driver, path: str) -> None:
            if start + done < stop:
                driver.read(path, start + done, stop, identity.tag, take)
            if start + done < stop:
                raise CutShort
            if start + done > stop:
                raise Changed
            if not driver.conditional and _identity(driver.info(path)) != identity:
                raise Changed

        self._asked(name, lambda: self._call(ask, name), gone=Changed())

    def read_all(self, name: str) -> bytes | None:
        """A small object, whole; None where there is none."""
        return self._asked(name, lambda: self._call(lambda driver, path: driver.read_all(path), name), None)

    def upload(self, local: Path, name: str) -> Identity:
        """Put a file there, whole or not at all, and say what the storage has now."""
        self._asked(name, lambda: self._call(lambda driver, path: driver.upload(local, path), name))
        return self._arrived(name, local.stat().st_size)

    def write(self, name: str, data: bytes) -> Identity:
        """Put a small object there."""
        self._asked(name, lambda: self._call(lambda driver, path: driver.write(path, data), name))
        return self._arrived(name, len(data))

    def copy(self, source: "Store", name: str, target: str, size: int) -> Identity:
        """Put a copy of another folder's object there, within the storage."""
        origin = source._path(name)
        self._asked(target, lambda: self._call(lambda driver, path: driver.copy(origin, path), target))
        return self._arrived(target, size)

    def remove(self, name: str) -> None:
        """An object, or a folder with all in it; nothing where there is none."""
        self._asked(name, lambda: self._call(lambda driver, path: driver.remove(path), name), None)

    def give_up_uploads(self) -> int:
        """Remove what killed uploads below this folder have stored; how many there were."""

        def ask(driver: Driver, path: str) -> int:
            found = driver.unfinished(path)
            for place, upload in found:
                driver.give_up(place, upload)
            return len(found)

        return self._asked("", lambda: self._call(ask, ""), 0)

    def _arrived(self, name: str, size: int) -> Identity:
        found = self.look(name)
        if found is None or found.size != size:
            told = "nothing" if found is None else f"{found.size} bytes"
            raise EnvironmentFault(f"{join(self.url, name)}: {size} bytes were sent, and {told} arrived; run again")
        return found

    def _call(self, ask: Callable[[Driver, str], T], name: str) -> T:
        return ask(self._driver()[0], self._path(name))

    def _path(self, name: str) -> str:
        path = self._driver()[1]
        return join(path, name) if name else path

    def _driver(self) -> tuple[Driver, str]:
        """This process's own: connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *open_driver(self.url))
        return self._opened[1:]

    def _asked(
        self, name: str, ask: Callable[[], T], missing: Any = FileNotFoundError, gone: Exception | None = None
    ) -> T:
        """What `ask` returns; `missing` where nothing is there, unless that is an error."""
        url = join(self.url, name) if name else self.url
        for pause in (*PAUSES_S, None):
            try:
                return ask()
            except Exception as error:
                if is_missing(error) and gone is not None:
                    raise fault_of(url, gone) from error
                if is_missing(error) and missing is not FileNotFoundError:
                    return missing  # type: ignore[no-any-return]
                if pause is None or not may_pass(error):
                    raise fault_of(url, error) from error
                time.sleep(pause)
        raise AssertionError

    def __str__(self) -> str:
        return shown(self.url)


def _identity(found: dict[str, Any]) -> Identity:
    size = int(found["size"])
    for key in _TAGS:
        if found.get(key):
            return Identity(size, str(found[key]).strip('"'))
    for key in _TIMES:
        if found.get(key):
            written = found[key]
            if isinstance(written, datetime):
                written = written.timestamp()
            when = int(float(written) * 1e9) if isinstance(written, int | float) else time.time_ns()
            return Identity(size, hashlib.sha256(f"{written}-{found.get('ino', '')}".encode()).hexdigest()[:32], when)
    raise EnvironmentFault(
        f"{found['name']}: the storage says neither a tag nor a time of its objects, so that one that changes would go "
        "unseen; copy the files to this machine or to another storage"
    )
