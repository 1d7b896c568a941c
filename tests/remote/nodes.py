"""Nodes for the tests of units: each unit with a cache of its own, in this process or in one that may be killed."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import widen
from widen.dispatched import Done
from widen.units import Fragment, Unit, do_unit

DO = """
import pickle, sys
exec(sys.argv[1])
from widen.errors import WidenError
from widen.units import do_unit
try:
    do_unit(pickle.load(sys.stdin.buffer))
except WidenError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def process_of(unit: Unit, before: str = "") -> "subprocess.Popen[bytes]":
    """A process that does the unit, after it has executed the code `before`."""
    command = [sys.executable, "-c", DO, before]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(unit))
    process.stdin.close()
    process.stdin = None
    return process


@dataclass
class Nodes:
    """Nodes that share no disk: every unit has a cache of its own below `folder`. done: the merge units, in order."""

    folder: Path
    done: list[Unit] = field(default_factory=list)

    def there(self, unit: Unit) -> Unit:
        own = widen.Resources(cache=self.folder / unit.work / Path(unit.file).stem, threads=1)
        return replace(unit, job=replace(unit.job, resources=own))

    def do(self, unit: Unit) -> Fragment:
        made = do_unit(self.there(unit))
        assert pickle.loads(pickle.dumps(made)) == made
        if unit.work == "merge":
            self.done.append(unit)
        return made

    def __call__(self, units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            done(unit, self.do(unit))
