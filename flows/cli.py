"""The command `widen`. Exit codes: 0 done, 2 usage or recipe, 3 inputs refused, 4 the gate or the
verification says no, 5 the environment (disk, device, server), 1 a bug of ours.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows.cli_options import (
    AMOUNTS,
    NODE_HELP,
    STORAGE_HELP,
    Address,
    Cache,
    Device,
    Memory,
    RecipeFile,
    RegistryUri,
    RemoteCache,
    Runner,
    ShardSize,
    Threads,
    Unit,
    Workspace,
)
from flows.cli_versions import app as versions
from widen.remote.address import is_url

app = typer.Typer(
    name="widen",
    help="Merge language models with WIDEN, from versioned checkpoints to a gated, registered champion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where its hub and workspace go.")] = Path("widen-demo"),
    device: Device = "auto",
    release: Annotated[
        str | None, typer.Option(metavar="WHAT", help="Only publish: tagger-v2, noise or readme.")
    ] = None,
) -> None:
    """Merge the quickstart's trained checkpoints end to end, and show the result."""
    from flows.demo import run_demo
    from flows.release import release_to_hub

    if release is not None:
        release_to_hub(folder, release)
    else:
        run_demo(folder, device)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]) -> None:
    """Make a workspace for a team: a git and DVC repository with pipeline, deployment and a recipe template."""
    from flows.assets import workspace_files
    from tasks.workspace import create_workspace

    workspace = create_workspace(folder, workspace_files())
    typer.echo(f"{workspace} is ready; edit recipes/template.yaml there, then run: widen run recipes/template.yaml")


@app.command()
def run(
    recipe: RecipeFile,
    workspace: Workspace = Path(),
    device: Device = "auto",
    runner: Runner = None,
    address: Address = None,
    unit: Unit = None,
) -> None:
    """The whole road: fetch, measure, validate, merge, evaluate, gate, register, promote."""
    from flows.run import run_recipe
    from flows.runners import remember

    remember(runner, address, unit)
    run_recipe(recipe, workspace, device)


@app.command()
def validate(recipe: RecipeFile, workspace: Workspace = Path(), device: Device = "auto") -> None:
    """As far as validation: may these checkpoints be merged at all?"""
    from flows.run import validate_recipe

    validate_recipe(recipe, workspace, device)


@app.command()
def merge(
    recipe: RecipeFile,
    out: Annotated[
        str,
        typer.Option(metavar="DIR|URL", help="The folder to make; one that this recipe did not make is left alone."),
    ],
    workspace: Workspace = Path(),
    device: Device = "auto",
    threads: Threads = None,
    memory: Memory = None,
    shard_size: ShardSize = None,
    cache: Cache = None,
    remote_cache: RemoteCache = None,
    profile: Annotated[
        Path | None, typer.Option(help="Say where the time went, and draw it here (.svg, .png).")
    ] = None,
    runner: Runner = None,
    address: Address = None,
    unit: Unit = None,
) -> None:
    """The merge alone: no registry, and on this machine no workflow engine. Refuses what needs no policy."""
    from flows.merge import MergeOptions, merge_recipe
    from flows.runners import chosen, spread_merge

    options = MergeOptions(workspace, device, threads, memory, shard_size, cache, remote_cache)
    place = out if is_url(out) else Path(out)
    if chosen(runner) == "local":
        merge_recipe(recipe, place, options, profile)
    else:
        spread_merge(recipe, place, options, profile, (runner, address, unit))


@app.command()
def plan(
    recipe: RecipeFile,
    out: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="What the merge would make: what of it can be reused?")
    ] = None,
    workspace: Workspace = Path(),
    threads: Threads = None,
    memory: Memory = None,
    shard_size: ShardSize = None,
    cache: Cache = None,
    remote_cache: RemoteCache = None,
) -> None:
    """What a merge would read, write, need and reuse, and how long it would take; from headers alone."""
    from flows.merge import MergeOptions
    from flows.plan import show_plan

    place = Path(out) if out is not None and not is_url(out) else out
    show_plan(recipe, place, MergeOptions(workspace, "cpu", threads, memory, shard_size, cache, remote_cache))


@app.command(name="simulate")
def simulate_nodes(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Of its checkpoints, or give --size.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Without checkpoints: 7b, 13b, 34b, 70b, 180b or 405b.")] = None,
    models: Annotated[int, typer.Option(min=1, help="With --size: models beside the base.")] = 2,
    nodes: Annotated[str, typer.Option(help="1-64 doubles from 1 to 64; or a list, 1,2,8.")] = "1-64",
    node: Annotated[str | None, typer.Option(metavar=AMOUNTS, help=NODE_HELP)] = None,
    storage: Annotated[str | None, typer.Option(metavar=AMOUNTS, help=STORAGE_HELP)] = None,
    unit: Unit = None,
    overhead: Annotated[str | None, typer.Option(metavar=AMOUNTS, help="Seconds: start, worker, unit, tensor.")] = None,
    inputs: Annotated[str, typer.Option(help="storage, or disk: a copy of all inputs on every node.")] = "storage",
    file_digests: Annotated[bool, typer.Option("--file-digests", help="Hash input files too, as `run` does.")] = False,
    slow: Annotated[float | None, typer.Option(min=0.001, max=1, help="One node has this share of the speed.")] = None,
    lost: Annotated[float | None, typer.Option(min=0, help="One node is lost after so many seconds.")] = None,
    gain: Annotated[float, typer.Option(min=0, max=1, help="More nodes are useful while they save this share.")] = 0.1,
    draw: Annotated[Path | None, typer.Option(help="Draw the curve here (.svg, .png).")] = None,
    workspace: Workspace = Path(),
    shard_size: ShardSize = None,
    cache: Cache = None,
) -> None:
    """What a merge would take on so many nodes: time, traffic, memory, cost, and what bounds it; from headers alone."""
    from flows.merge import MergeOptions
    from flows.simulate import Asked, simulate

    asked = Asked(size, models, nodes, node, storage, unit, overhead, inputs, file_digests, slow, lost, gain)
    simulate(recipe, asked, MergeOptions(workspace, "cpu", None, None, shard_size, cache), draw)


@app.command()
def compare(
    recipe: RecipeFile,
    methods: Annotated[str | None, typer.Option(metavar="A,B,...", help="The recipe's by default, or all.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Search parameters too: so many trials a method.")] = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="The winner as a recipe, a new file.")] = None,
    workspace: Workspace = Path(),
    device: Device = "auto",
) -> None:
    """Merge by several methods, score them on some documents, and put the best to the recipe's gate on others."""
    from flows.compare.run import Asked, compare_recipe

    named = None if methods is None else tuple(name.strip() for name in methods.split(",") if name.strip())
    compare_recipe(recipe, workspace, device, Asked(named or None, trials, write))


@app.command()
def convert(source: Path, out: Path) -> None:
    """Pickle weights (.bin) to a safetensors folder, read in a process of its own by a loader that runs no code."""
    from flows.convert import convert_pickles

    convert_pickles(source, out)


@app.command()
def station(
    name: Annotated[str, typer.Argument(help="fetch, measure, validate, merge, evaluate or gate.")],
    recipe: RecipeFile,
    workspace: Workspace = Path(),
    device: Device = "auto",
) -> None:
    """One station on what those before it recorded, without the workflow engine; `dvc repro` runs these."""
    from flows.run import run_one_station

    run_one_station(name, recipe, workspace, device)


@app.command()
def watch(
    workspace: Workspace = Path(),
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
) -> None:
    """Follow upstream: look at every recipe's sources, and ask Prefect for a re-merge when their content moved."""
    from flows.environment import prepare

    prepare(workspace.resolve())  # before Prefect reads its settings
    from flows.follow.watch import run_watch

    run_watch(workspace, once)


@app.command()
def up(workspace: Workspace = Path()) -> None:
    """Start the workspace's services (Prefect, MLflow, worker, watch), keep them running, and say where they are."""
    from flows.services.up import up as start

    start(workspace)


@app.command()
def down(workspace: Workspace = Path()) -> None:
    """End all that `widen up` started."""
    from flows.services.up import down as end

    end(workspace)


@app.command()
def service(
    name: Annotated[str, typer.Argument(help="prefect, mlflow, worker or watch.")], workspace: Workspace = Path()
) -> None:
    """One service in the foreground, as systemd and containers run it."""
    from flows.services.run import run_service

    run_service(name, workspace)


@app.command()
def gc(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Registered models, or all.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, only say what would go and why.")] = False,
    keep_champions: Annotated[int | None, typer.Option(min=1, help="The last champions; 3 if not said.")] = None,
    keep_candidates: Annotated[int | None, typer.Option(min=0, help="The newest other versions; 5.")] = None,
    keep_days: Annotated[float | None, typer.Option(min=0, help="Whatever is younger, or was used since; 30.")] = None,
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
) -> None:
    """Free the weights of versions that nothing keeps, and caches that nobody uses. The record of a version stays."""
    from flows.gc import Asked, collect_garbage

    collect_garbage(names or (), Asked(keep_champions, keep_candidates, keep_days), workspace, registry, apply)


@app.command()
def status(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE", help="By file or name; else all.")] = None,
    workspace: Workspace = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    check: Annotated[bool, typer.Option("--check", help="4 if anything is held, failed or out of reach.")] = False,
    again: Annotated[float | None, typer.Option("--watch", metavar="SECONDS", min=0.5, help="Again and again.")] = None,
) -> None:
    """What is followed, what serves, what happened last and what to do next; asks no hub, and starts nothing."""
    from flows.status.show import show_status

    show_status(recipes or (), workspace, as_json, check, again)


app.registered_commands += versions.registered_commands


def main() -> None:
    """Run the command; every error that we raise on purpose becomes one message and its exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last door: whatever comes here is told in one line
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    code, text = getattr(error, "exit_code", 1), str(error)
    if isinstance(error, ModuleNotFoundError):
        code, text = 5, f"{error.name} is not installed; everything but `merge` needs: pip install 'widen[pipeline]'"
    if code == 1:
        text = f"a bug of ours: {type(error).__name__}: {error} (WIDEN_DEBUG=1 shows where)"
    if os.environ.get("WIDEN_DEBUG"):
        import traceback

        traceback.print_exception(error)
    print(f"widen: {text}", file=sys.stderr)
    sys.exit(code)
