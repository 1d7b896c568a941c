"""Which runner does the units, and what one unit takes of a node: from the command line, else from the settings."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from widen.errors import RecipeError

if TYPE_CHECKING:
    from flows.merge import MergeOptions
    from tasks.cluster import Runner


def chosen(runner: str | None) -> str:
    """The runner's name. Raises RecipeError for one that there is not."""
    name = runner or os.environ.get("WIDEN_RUNNER") or "local"  # the settings' own module is not for a merge alone
    if name not in ("local", "ray", "dask"):
        raise RecipeError(f"--runner {name!r} is unknown; expected local, ray or dask")
    return name


def remember(runner: str | None, address: str | None, unit: str | None) -> None:
    """Have what the command line says stand for the settings, for all that this process does."""
    said = {"WIDEN_RUNNER": runner, "WIDEN_RUNNER_ADDRESS": address, "WIDEN_UNIT": unit}
    os.environ.update({name: value for name, value in said.items() if value is not None})


def runner_of(runner: str | None, address: str | None, unit: str | None, device: str) -> "Runner":
    """The runner that was asked for. device: a unit for cuda takes one GPU, unless it says how many.

    Raises RecipeError for an unknown runner and for a unit that is not NAME=AMOUNT,...
    """
    from flows.settings import settings
    from tasks.cluster import Runner, Share

    name = chosen(runner)
    asked = parse_unit(unit or settings().unit or "")
    gpus = asked.pop("gpus", 1.0 if device == "cuda" else 0.0)
    memory = asked.pop("memory", None)
    cpus = int(asked.pop("cpus", 2))
    share = Share(cpus, gpus, None if memory is None else int(memory), asked)
    return Runner(name, address or settings().runner_address, share)  # type: ignore[arg-type]


def spread_merge(
    recipe: Path,
    out: Path | str,
    options: "MergeOptions",
    profile: Path | None,
    asked: tuple[str | None, str | None, str | None],
) -> None:
    """`widen merge` by units on a runner: `asked` are its name, its address and what a unit takes.

    Raises RecipeError for what only this process's own lanes can do.
    """
    from flows.environment import prefect_server, prepare
    from flows.merge import merge_recipe
    from flows.quiet import told_once

    runner = runner_of(*asked, options.device)
    if profile is not None:
        raise RecipeError(f"--profile: tells of this process's lanes, and --runner {runner.name} has others work")
    prepare(options.workspace.resolve())
    from tasks.units import dispatch_to

    with prefect_server(), told_once():
        merge_recipe(recipe, out, of_a_unit(options, runner), None, dispatch_to(runner))


def of_a_unit(options: "MergeOptions", runner: "Runner") -> "MergeOptions":
    """The options of each unit: as many threads and as much memory as it takes of a node, unless said otherwise."""
    share = runner.share
    memory = options.memory or (None if share.memory is None else f"{share.memory // 2}")
    return replace(options, threads=options.threads or share.cpus, memory=memory)


def parse_unit(text: str) -> dict[str, float]:
    """`cpus=4,gpus=1,memory=32GB,nvme=1` as numbers, memory in bytes. Raises RecipeError naming what is wrong."""
    from flows.amounts import number, one_or_more, parse_amounts, size

    return parse_amounts("--unit", text, {"cpus": one_or_more, "gpus": number, "memory": size}, other=number)
