"""What a measurement was made on: processors, memory, kernel, file system, versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from widen.version import __version__

PACKAGES = ("numba", "numpy", "safetensors", "torch", "transformers")


def machine(folder: Path) -> dict[str, str | int]:
    """The machine, and the file system that holds `folder`."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "processors": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "memory_bytes": memory_bytes(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(folder),
    }


def memory_bytes() -> int:
    """Of the whole machine."""
    return int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024


def versions() -> dict[str, str]:
    """This project's, Python's and the packages'."""
    return {"widen": __version__, "python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, as in the kernel's list of mounts."""
    place = folder.resolve()
    best, kind = 0, "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        point = Path(mount.encode().decode("unicode_escape"))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), found
    return kind


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "0 unknown")
