"""`widen demo`: an upstream hub, a team's workspace that imports from it, its key, and the quickstart's recipe run."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.assets import asset, workspace_files
from flows.environment import prepare, seed_prefect, start_prefect
from flows.hub import make_hub
from flows.run import run_recipe
from registry.attest.keys import VARIABLE, generate

RECIPE = "quickstart"


def run_demo(folder: Path, device: str) -> None:
    """Make what is missing of hub, workspace and key in `folder` and run the recipe; a second run skips much of it."""
    folder = folder.resolve()
    os.environ.setdefault("PREFECT_HOME", str(folder / "prefect"))
    prepare(folder / "workspace")
    seed_prefect()
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(start_prefect)
        workspace = make_demo(folder)
        os.environ.setdefault(VARIABLE, str(generate(folder / "keys")))
        started.result()
    run_recipe(workspace / "recipes" / f"{RECIPE}.yaml", workspace, device)


def make_demo(folder: Path) -> Path:
    """Make or find the demo's hub and workspace; returns the workspace. `folder` hides itself from a git around it."""
    from tasks.workspace import create_workspace

    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    print(f"hub: {make_hub(folder / 'hub', asset('examples/quickstart'))}")
    files = workspace_files(RECIPE) | _evaluation()
    workspace = create_workspace(folder / "workspace", files)
    print(f"workspace: {workspace}")
    return workspace


def _evaluation() -> dict[str, str]:
    """The quickstart's tasks and their documents, which belong to the workspace."""
    source = asset("examples/quickstart/evaluation")
    return {f"evaluation/{path.name}": path.read_text(encoding="utf-8") for path in sorted(source.iterdir())}
