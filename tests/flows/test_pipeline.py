"""The whole road on the quickstart, as its user walks it: champion, scores, lineage, a second run, refusals."""

import json
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.run import show_lineage
from registry.scorecard import Scorecard
from registry.store import Registry
from registry.versions import download, resolve
from tests.flows.conftest import ROOT, Ran, run_widen
from widen import Manifest

QUICKSTART = ROOT / "examples" / "quickstart"
METRICS = {"bpb_en": "bits_per_byte", "app_en": "acc", "bpb_id": "bits_per_byte", "app_id": "acc"}


def registry_of(demo: Ran) -> Registry:
    return Registry.at(None, demo.workspace)


def table() -> dict[str, list[float]]:
    """The quickstart's table of scores, by row: bpb en, acc en, bpb id, acc id."""
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        (QUICKSTART / "README.md").read_text(),
        re.MULTILINE,
    )
    return {label: [float(value) for value in values] for label, *values in rows}


def test_the_demo_ends_with_a_promoted_champion(demo: Ran) -> None:
    assert demo.code == 0, demo.err
    version = resolve(registry_of(demo), "quickstart@champion").version
    assert version.version == 1
    assert set(version.aliases) == {"candidate", "champion"}
    assert (demo.workspace / "runs" / "quickstart" / "registered.json").is_file()
    for word in ("Scores of quickstart", "PASS", "quickstart version 1", "index.html", "mlflow server"):
        assert word in demo.out
    assert "champion bpb_id/bits_per_byte: margin 0.2: there is no champion yet; this stands in: parents" in demo.out


def test_the_report_is_drawn_logged_and_named(demo: Ran, tmp_path: Path) -> None:
    page = demo.workspace / "runs" / "quickstart" / "report.html"
    assert str(page) in demo.out
    out = tmp_path / "page.html"
    done = run_widen(
        "report", "quickstart@champion", "--workspace", demo.workspace, "--out", out, cwd=tmp_path, home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert out.read_text() == page.read_text()
    for one in ("PASS", "the champion", "indonesian", "post_attention_layernorm", "checkpoints/tagger of ../hub at v1"):
        assert one in page.read_text(), one
    told = sqlite3.connect(demo.folder / "prefect" / "prefect.db").execute("select key, data from artifact").fetchall()
    assert page.as_uri() in dict(told)["quickstart-report"]


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("base", "base"),
        ("indonesian", "indonesian"),
        ("tagger", "tagger-v1"),
        ("merged", "v1 + indonesian: WIDEN t=1 s=1"),
    ],
)
def test_scores_are_those_of_the_table(model: str, row: str, demo: Ran) -> None:
    card = Scorecard.from_json((demo.workspace / "runs" / "quickstart" / "scorecards" / f"{model}.json").read_text())
    for (task, metric), expected in zip(METRICS.items(), table()[row], strict=True):
        assert card.get(task, metric).value == pytest.approx(expected, abs=0.01), task
        assert len(card.get(task, metric).documents) == 600


def test_the_champion_is_a_folder_that_loads_and_shares_its_bytes(demo: Ran) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = download(registry_of(demo), "quickstart@champion")
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("Writer").input_ids) == "Writer"
    merged = demo.workspace / "merged" / "quickstart"
    assert (folder / "model.safetensors").samefile(merged / "model.safetensors")
    assert Manifest.load(folder).damage(folder) == []


def test_lineage_leads_back_to_every_input_byte(demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_widen(
        "lineage", "quickstart@champion", "--json", "--workspace", demo.workspace, cwd=tmp_path, home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lineage = json.loads(done.stdout)
    tag = subprocess.run(
        ["git", "rev-parse", "v1^{commit}"], cwd=demo.folder / "hub", capture_output=True, text=True, check=True
    ).stdout.strip()
    assert [one["source"]["name"] for one in lineage["inputs"]] == ["base", "tagger", "indonesian"]
    originals = {"base": "base", "tagger": "tagger-v1", "indonesian": "indonesian"}
    from widen.digests import hash_file

    for one in lineage["inputs"]:
        assert one["source"]["commit"] == tag
        folder = QUICKSTART / "checkpoints" / originals[one["source"]["name"]]
        assert one["files"] == {path.name: hash_file(path).sha256 for path in folder.iterdir()}
    assert lineage["verdict"] == "PASS"
    assert lineage["parameters"]["t"] == 1.0
    assert lineage["flow_run"]
    show_lineage("quickstart", demo.workspace, None, as_json=False)
    assert tag in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_run_skips_what_has_not_changed(demo: Ran, tmp_path: Path) -> None:
    merged = demo.workspace / "merged" / "quickstart" / "model.safetensors"
    before = merged.stat().st_ino
    done = run_widen("demo", "--dir", demo.folder, cwd=tmp_path, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert merged.stat().st_ino == before
    assert resolve(registry_of(demo), "quickstart").version.version == 1
    assert "registered before" in done.stdout
    said = done.stdout + done.stderr
    for station in (
        "statistics of tagger: 0 tensors measured",
        "statistics of indonesian: 0 tensors measured",
        "merge: ",
        "at hand",
        "validation: nothing changed",
    ):
        assert station in said
    assert list(tmp_path.iterdir()) == []  # nothing in the home folder


# First the tests that leave the demo's workspace as it was: the last one moves its recipe and its inputs.


@pytest.mark.slow
def test_dvc_repro_gives_the_same_tensors(demo: Ran, tmp_path: Path) -> None:
    before = Manifest.load(demo.workspace / "merged" / "quickstart").tensors
    shutil.rmtree(demo.workspace / "merged")
    shutil.rmtree(demo.workspace / "runs")
    done = run_dvc_repro(demo, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Manifest.load(demo.workspace / "merged" / "quickstart").tensors == before
    assert json.loads((demo.workspace / "runs" / "quickstart" / "gate.json").read_text())["verdict"] == "PASS"
    again = run_dvc_repro(demo, tmp_path)
    assert "Stage 'merge' didn't change, skipping" in again.stdout + again.stderr


def run_dvc_repro(demo: Ran, home: Path) -> subprocess.CompletedProcess[str]:
    import os
    import sys

    commands = home / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "widen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flows "$@"\n')
    (commands / "widen").chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(home), "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=demo.workspace, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.slow
def test_noise_ends_3_and_a_gate_not_passed_ends_4_and_the_champion_stays(demo: Ran, tmp_path: Path) -> None:
    champion = resolve(registry_of(demo), "quickstart@champion").version.version
    recipe = demo.workspace / "recipes" / "quickstart.yaml"
    text = recipe.read_text()
    noise = tmp_path / "noise"
    shutil.copytree(QUICKSTART / "checkpoints" / "tagger-v1", noise)
    weights = load_file(noise / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    (noise / "model.safetensors").unlink()
    noisy = {name: (torch.randn(t.shape, generator=generator) * 0.02).to(t.dtype) for name, t in weights.items()}
    save_file(noisy, noise / "model.safetensors", {"format": "pt"})
    lines = [f"  tagger: {{path: {noise}}}" if line.startswith("  tagger:  ") else line for line in text.split("\n")]
    assert lines != text.split("\n")
    try:
        recipe.write_text("\n".join(lines))
        done = run_widen("run", "recipes/quickstart.yaml", "--workspace", demo.workspace, cwd=tmp_path, home=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "tagger" in done.stderr
        assert "Traceback" not in done.stderr
        recipe.write_text(text.replace("    s: 1.0 ", "    s: 0.1 "))
        assert recipe.read_text() != text
        done = run_widen("run", "recipes/quickstart.yaml", "--workspace", demo.workspace, cwd=tmp_path, home=tmp_path)
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr
    finally:
        recipe.write_text(text)
    failed = resolve(registry_of(demo), "quickstart@candidate").version
    assert failed.version != champion
    assert failed.tag("verdict") == "FAIL"
    assert failed.tag("report")
    assert "<title>FAIL: " in (demo.workspace / "runs" / "quickstart" / "report.html").read_text()
    assert resolve(registry_of(demo), "quickstart@champion").version.version == champion
