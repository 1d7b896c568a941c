"""The process in which pickle is read: no secret of this one's environment, a folder of its own, limits, no code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from widen.errors import EnvironmentFault, InputsRefused

ROOT = Path(__file__).parents[2]
PASSED_ON = ("LD_LIBRARY_PATH", "SYSTEMROOT")
"""Of the environment: what a library needs to be found, and nothing that could be a secret."""


class Reader:
    """Asks the process about files. `name` is what messages call the checkpoint."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", said: IO[bytes]) -> None:
        self._name, self._process, self._said = name, process, said

    def tensors(self, file: Path) -> list[dict[str, Any]]:
        """Name, dtype, shape and `same` (the first tensor that is the same memory, or None) of each in a file.

        Raises InputsRefused for a file that holds anything but plain weights.
        """
        found: list[dict[str, Any]] = self._ask({"do": "list", "file": str(file.absolute())}, file)["tensors"]
        return [one | {"shape": tuple(one["shape"])} for one in found]

    def write(self, file: Path, names: list[str], out: Path, size: int) -> int:
        """Write these tensors of a file as the safetensors file `out`, of at most `size` bytes; returns its size."""
        request = {
            "do": "write",
            "file": str(file.absolute()),
            "names": names,
            "out": str(out.absolute()),
            "size": size,
        }
        return int(self._ask(request, file)["size"])

    def _ask(self, request: Mapping[str, Any], file: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        except (BrokenPipeError, ValueError):
            answer = {}
        if "refused" in answer:
            raise InputsRefused(f"{self._name}: {file.name} {answer['refused']}. Nothing was written")
        if "fault" in answer:
            raise EnvironmentFault(f"{self._name}: {file.name}: {answer['fault']}; nothing was published")
        if not answer:
            raise self._ended(file)
        return answer

    def _ended(self, file: Path) -> InputsRefused:
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self._said.seek(0)
        last = self._said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        told = f"{how}{f', {last[:200]}' if last else ''}"
        return InputsRefused(
            f"{self._name}: {file.name} ended the process that read it ({told}); it is damaged, or claims more memory "
            "than its size allows. Nothing was written"
        )


@contextmanager
def reader(name: str, folder: Path) -> Iterator[Reader]:
    """A process that reads pickle files, at work in `folder`; it is gone when the block ends."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); from widen.convert.child import main; main()"
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    with TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            cwd=folder, env=environment, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            yield Reader(name, process, said)
        finally:
            process.kill()
            process.communicate()
