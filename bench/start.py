"""What a command costs before its work begins: interpreter start, and the imports that the work needs.

    python -P bench/start.py record LIST MODULE [ARGUMENT ...]    runs MODULE, then writes to LIST what it imported
    python -P bench/start.py load LIST                            imports the same, and loads compiled kernels

It runs in any entrant's interpreter, so it imports nothing beyond the standard library. Recording on models of no
size, instead of listing modules by hand, keeps the measure true when a command comes to import less or more.
"""

import atexit
import importlib
import runpy
import sys
from contextlib import suppress
from pathlib import Path

KERNELS = "widen.kernels.warm"
"""Its `warm` makes numba load what it compiled before, here for two bfloat16 models; only a command that came to import
numba pays for that."""


def record(target: Path, module: str, arguments: list[str]) -> None:
    """Run a module as `python -m` does, and write the names of all modules that were imported when it ends."""
    atexit.register(lambda: target.write_text("\n".join([*_imported(), module])))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def load(source: Path) -> None:
    """Import every module of a list, in its order."""
    names = source.read_text().split()
    for name in names:
        with suppress(ImportError):  # some modules exist only while another is imported
            importlib.import_module(name)
    if "numba" in names:
        importlib.import_module(KERNELS).warm({importlib.import_module("widen.dtypes").BF16: 2})


def _imported() -> list[str]:
    """Modules that lie in files; what their code puts into sys.modules comes with them."""
    modules = [(name, getattr(module, "__spec__", None)) for name, module in list(sys.modules.items())]
    return [name for name, spec in modules if spec is not None and spec.name == name and spec.has_location]


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    action, path, *rest = sys.argv[1:]
    if action == "record":
        record(Path(path), rest[0], rest[1:])
    else:
        load(Path(path))
