"""Do once, when the package is installed, what the first run would wait for: `python -m flows.warm`.

Compiles the kernels, and makes an empty database of the installed Prefect. Nothing depends on it but time.
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.environment import database_template, prepare
from widen.kernels.warm import warm


def make_template(template: Path) -> None:
    """Let Prefect migrate an empty database, and keep it at `template`."""
    with TemporaryDirectory() as home:
        os.environ["PREFECT_HOME"] = home
        prepare(Path(home))
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        template.parent.mkdir(parents=True, exist_ok=True)
        partial = template.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(Path(home) / "prefect.db")) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(template)


def main() -> None:
    """Warm what is cold."""
    warm()
    if not database_template().exists():
        make_template(database_template())


if __name__ == "__main__":
    main()
