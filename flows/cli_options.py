"""Options that several commands of `widen` take."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, or for `merge` also a plain mergekit configuration.")]
Workspace = Annotated[Path, typer.Option(help="The workspace: relative paths in the recipe are meant from here.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; the merged bytes are the same.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; all by default.")]
Memory = Annotated[str | None, typer.Option(help="Memory budget, such as 2GB; by default a quarter of what is free.")]
ShardSize = Annotated[str | None, typer.Option(help="Largest output file, such as 5GB; by default a sixteenth of all.")]
Cache = Annotated[
    Path | None, typer.Option(help="Digests and statistics kept between merges; ~/.cache/widen if not said.")
]
RemoteCache = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Of the cache for what storages hold, such as 50GB; 20GB if not said."),
]
Runner = Annotated[
    str | None, typer.Option(metavar="local|ray|dask", help="Who merges: this process, or units on a cluster's nodes.")
]
Address = Annotated[
    str | None, typer.Option(help="A Ray or Dask cluster that runs; without, one is started on this machine.")
]
Unit = Annotated[
    str | None, typer.Option(metavar="NAME=AMOUNT,...", help="What one unit takes: cpus=2, gpus=1, memory=8GB, ...")
]
AMOUNTS = "NAME=AMOUNT,..."
NODE_HELP = "cpus, memory, read, write, network (bytes a second), gpus, pcie, kernel, scaling, speed, price of an hour."
STORAGE_HELP = "Of all nodes together: read, write (bytes a second), latency (seconds), part, requests."
By = Annotated[str | None, typer.Option(metavar="PERSON", help="Who; git's user by default, else user@host.")]
RegistryUri = Annotated[str | None, typer.Option("--registry", help="The registry, if not the workspace's own.")]

Source = Annotated[
    list[str] | None, typer.Option(metavar="NAME=PLACE", help="Where an input's repository or folder is now.")
]
PublicKey = Annotated[Path | None, typer.Option(help="Whose signature to accept (PEM).")]
Scratch = Annotated[Path | None, typer.Option(help="Where inputs and re-merge go; the system's own if not said.")]
