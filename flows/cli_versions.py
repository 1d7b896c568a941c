"""The commands about registered versions."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_options import By, Device, PublicKey, RegistryUri, Scratch, Source, Workspace

app = typer.Typer()


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A registered model.")],
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Where a registered model came from, back to the digest of every input file."""
    from flows.run import show_lineage

    show_lineage(model, workspace, registry, as_json)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="A registered version; NAME@ALIAS will do.")],
    by: By = None,
    reason: Annotated[str | None, typer.Option(help="Why; by default what the gate said.")] = None,
    override: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Promote against the gate's word; it is recorded with the verdict."),
    ] = None,
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
) -> None:
    """Make a version the champion, as an entry of the model's history."""
    from flows.promotion import promote_version

    promote_version(model, by, reason, override, workspace, registry)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    to: Annotated[int | None, typer.Option(help="A former champion; by default the one before.")] = None,
    by: By = None,
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
) -> None:
    """Make a former champion the champion again, as an entry of the model's history."""
    from flows.promotion import roll_back

    roll_back(name, to, by, reason, workspace, registry)


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every move of the champion, newest last, with digests; exit code 5 when the history was altered."""
    from flows.promotion import show_history

    show_history(name, workspace, registry, as_json)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A registered model.")],
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
    quick: Annotated[bool, typer.Option("--quick", help="Record and files only; no fetch and no re-merge.")] = False,
    source: Source = None,
    public_key: PublicKey = None,
    scratch: Scratch = None,
    device: Device = "auto",
) -> None:
    """Audit a registered model: its record, files, signature and history; then fetch its inputs and merge again."""
    from flows.verify import VerifyOptions, verify_model

    options = VerifyOptions(workspace, registry, quick, device, scratch, tuple(source or ()), public_key)
    verify_model(model, options)


@app.command()
def report(
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A registered model.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; by default named after the model.")] = None,
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
) -> None:
    """Fetch the report of a registered model: one HTML page that needs neither a network nor a script."""
    from flows.report import save_report

    save_report(model, workspace, registry, out)


@app.command()
def restore(
    model: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="A version whose weights were freed or lost.")],
    workspace: Workspace = Path(),
    registry: RegistryUri = None,
    source: Source = None,
    public_key: PublicKey = None,
    scratch: Scratch = None,
    device: Device = "auto",
) -> None:
    """Make the merge of a version without weights again, check it against the record, put its files back."""
    from flows.restore import restore_version
    from flows.verify import VerifyOptions

    restore_version(model, VerifyOptions(workspace, registry, False, device, scratch, tuple(source or ()), public_key))
