"""What bad input gets: for every row of the table, the input is made, and exit code, message and effect are checked."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from flows.cli import main
from tests.build import family

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
NAME = "model.layers.1.mlp.up_proj.weight"
Widen = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The command sets defaults in its environment, which is ours here: they go when the module ends."""
    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def widen(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Widen:
    """Run the command in this process: its exit code and what it said on standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["widen", *(str(one) for one in arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A mergekit configuration of a base and one model, both fine until a test spoils them."""
    family(tmp_path / "in", sizes=(0.1,))
    path = tmp_path / "merge.yaml"
    content = {
        "merge_method": "widen", "base_model": str(tmp_path / "in" / "base"),
        "models": [{"model": str(tmp_path / "in" / "m1")}], "parameters": {"t": 1.0, "s": 1.0}, "dtype": "bfloat16",
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def spoil(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_to(target: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        weight_map = dict.fromkeys(names, "a.safetensors") | {NAME: target}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return make


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def reconfigured(**changes: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    return lambda folder: spoil(folder, change)


def tokenizers(folder: Path) -> None:
    for place, vocabulary in ((folder.parent / "base", {"a": 0, "b": 1}), (folder, {"b": 0, "a": 1})):
        (place / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))


REFUSED = {
    "truncated": (truncated, ["m1", "model.safetensors", "truncated"]),
    "index naming a missing file": (index_to("gone.safetensors"), ["m1", "gone.safetensors", NAME]),
    "index leaving by ..": (index_to("../x.safetensors"), ["'../x.safetensors'", "not opened"]),
    "index leaving by an absolute path": (index_to("/etc/passwd"), ["'/etc/passwd'", "not opened"]),
    "pickle": (pickled, ["pytorch_model.bin", "widen convert", "nothing was executed"]),
    "code in the configuration": (reconfigured(auto_map={"AutoModel": "x.Y"}), ["auto_map", "nothing was executed"]),
    "NaN": (weights(lambda w: w[NAME].fill_(float("nan"))), ["m1", NAME, "1536 NaN"]),
    "Inf": (weights(lambda w: w[NAME].fill_(float("inf"))), ["m1", NAME, "1536 Inf"]),
    "another shape": (weights(lambda w: w.update({NAME: w[NAME][:3].clone()})), ["m1", NAME, "[3, 32]"]),
    "missing tensor": (weights(lambda w: w.pop(NAME)), ["m1", NAME, "missing"]),
    "extra tensor": (weights(lambda w: w.update(extra=torch.zeros(2))), ["m1", "extra", "extra tensor"]),
    "another tokenizer": (tokenizers, ["m1", "tokenizer.json", "other tokenizer"]),
    "another configuration": (reconfigured(rms_norm_eps=1e-3), ["m1", "rms_norm_eps", "0.001"]),
    "quantised": (reconfigured(quantization_config={"quant_method": "awq"}), ["m1", "awq"]),
    "unknown dtype": (weights(lambda w: w.update({NAME: w[NAME].to(torch.int8)})), ["m1", NAME, "I8"]),
}


@pytest.mark.parametrize("row", REFUSED)
def test_inputs_that_are_refused(row: str, config: Path, widen: Widen, tmp_path: Path) -> None:
    make, named = REFUSED[row]
    make(tmp_path / "in" / "m1")
    code, said = widen("merge", config, "--out", tmp_path / "out")
    assert code == 3, said
    for word in named:
        assert word in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "merge.yaml"]


def test_types_may_be_mixed(config: Path, widen: Widen, tmp_path: Path) -> None:
    spoil(tmp_path / "in" / "m1", lambda w: w.update({name: t.half() for name, t in w.items() if "mlp" in name}))
    spoil(tmp_path / "in" / "base", lambda w: w.update({name: t.float() for name, t in w.items() if "attn" in name}))
    assert widen("merge", config, "--out", tmp_path / "out")[0] == 0


MISTAKES = {
    "misspelt key": ("merge_method: widen", "merge_methd: widen", ["merge_methd", ":1:", "merge_method"]),
    "misspelt parameter": ("t: 1.0", "temperature: 1.0", ["temperature", ":6:"]),
    "wrong type": ("merge_method: widen", "merge_method: [widen]", ["merge_method", ":1:"]),
    "unknown method": ("merge_method: widen", "merge_method: widne", ["widne", "widen", ":1:"]),
    "t is not a number": ("t: 1.0", "t: much", ["parameters.t", "much", ":6:"]),
    "s is not a number": ("s: 1.0", "s: true", ["parameters.s", ":7:"]),
    "t is not finite": ("t: 1.0", "t: .nan", ["parameters.t", ":6:"]),
}


@pytest.mark.parametrize("row", MISTAKES)
def test_mistakes_in_the_recipe(row: str, config: Path, widen: Widen, tmp_path: Path) -> None:
    old, new, named = MISTAKES[row]
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    code, said = widen("merge", config, "--out", tmp_path / "out")
    assert code == 2
    for word in ["merge.yaml", *named]:
        assert word in said
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_somebody_else(config: Path, widen: Widen, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    code, said = widen("merge", config, "--out", tmp_path / "out")
    assert code == 2
    assert "was not made by this recipe" in said
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("thesis.tex", "years")]


def test_an_output_folder_of_this_recipe_is_made_again(config: Path, widen: Widen, tmp_path: Path) -> None:
    assert widen("merge", config, "--out", tmp_path / "out")[0] == 0
    spoil(tmp_path / "in" / "m1", lambda w: w[NAME].mul_(1.5))
    before = (tmp_path / "out" / "widen-manifest.json").read_text()
    assert widen("merge", config, "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "widen-manifest.json").read_text() != before


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--device", "cuda"], 5, "cuda"),
        (["--device", "tpu"], 2, "auto, cpu or cuda"),
        (["--threads", "0"], 2, "threads"),
        (["--shard-size", "5 parsecs"], 2, "5 parsecs"),
        (["--colour", "red"], 2, "colour"),
    ],
)
def test_usage(arguments: list[str], code: int, named: str, config: Path, widen: Widen, tmp_path: Path) -> None:
    found, said = widen("merge", config, "--out", tmp_path / "out", *arguments)
    assert found == code
    assert named in said


def test_a_missing_dependency_of_the_pipeline_is_named(
    widen: Widen, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flows.run", None)
    code, said = widen("run", config, "--workspace", tmp_path)
    assert code == 5
    assert "widen[pipeline]" in said


def test_a_recipe_that_is_not_there(widen: Widen, tmp_path: Path) -> None:
    code, said = widen("merge", tmp_path / "no.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "no.yaml" in said


def test_a_run_outside_a_workspace_names_the_next_step(config: Path, widen: Widen, tmp_path: Path) -> None:
    code, said = widen("run", config, "--workspace", tmp_path)
    assert code == 2
    assert "widen init" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "merge.yaml"]


def test_an_unreachable_hub_and_an_unknown_revision(widen: Widen, workspace: Path) -> None:
    recipe = workspace / "recipes" / "quickstart.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("repo: ../hub", "repo: ../nowhere"))
    code, said = widen("validate", recipe, "--workspace", workspace)
    assert code == 5, said
    assert "nowhere" in said
    recipe.write_text(text.replace("rev: v1", "rev: v99", 1))
    code, said = widen("validate", recipe, "--workspace", workspace)
    assert code == 5, said
    assert "v99" in said
    recipe.write_text(text)


def copy_of_the_recipe(workspace: Path, registry: str) -> Path:
    recipe = workspace / "recipes" / "elsewhere.yaml"
    text = (workspace / "recipes" / "quickstart.yaml").read_text().replace("name: quickstart", "name: elsewhere", 1)
    recipe.write_text(text.replace("uri: null", f"uri: {registry}"))
    return recipe


def test_a_run_with_an_unreachable_registry_stops_before_any_work(widen: Widen, workspace: Path) -> None:
    code, said = widen("run", copy_of_the_recipe(workspace, "http://127.0.0.1:9"), "--workspace", workspace)
    assert code == 5, said
    assert "127.0.0.1:9" in said
    assert not (workspace / "runs" / "elsewhere").exists()


def test_a_run_with_a_key_that_cannot_sign_stops_before_any_work(
    widen: Widen, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n")
    recipe = copy_of_the_recipe(workspace, "null")
    for setting in (str(tmp_path / "absent.pem"), str(tmp_path / "key.pem"), (tmp_path / "key.pem").read_text()):
        monkeypatch.setenv("WIDEN_SIGNING_KEY", setting)
        code, said = widen("run", recipe, "--workspace", workspace)
        assert code == 5, said
        assert said.startswith("widen: WIDEN_SIGNING_KEY: ")
        assert "c2VjcmV0" not in said
    assert not (workspace / "runs" / "elsewhere").exists()


@pytest.mark.slow
def test_a_run_with_an_unreachable_workflow_server_stops_before_any_work(workspace: Path, tmp_path: Path) -> None:
    recipe = copy_of_the_recipe(workspace, "null")
    named = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows", "run", str(recipe), "--workspace", str(workspace)]
    done = subprocess.run(command, env={**os.environ, **named}, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "Prefect server http://127.0.0.1:9/api/ does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workspace / "runs" / "elsewhere").exists()


def test_an_unreachable_registry(widen: Widen, workspace: Path) -> None:
    code, said = widen("lineage", "quickstart", "--workspace", workspace, "--registry", "http://127.0.0.1:9")
    assert code == 5, said
    assert "127.0.0.1:9" in said


@pytest.mark.slow
def test_noise_in_place_of_a_model_is_refused(widen: Widen, workspace: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    shutil.copytree(QUICKSTART / "checkpoints" / "tagger-v1", noise)
    generator = torch.Generator().manual_seed(0)
    spoil(noise, lambda w: [t.copy_(torch.randn(t.shape, generator=generator) * 0.02) for t in w.values()])
    recipe = workspace / "recipes" / "noise.yaml"
    text = (workspace / "recipes" / "quickstart.yaml").read_text()
    local = f"  tagger: {{path: {noise}}}"
    lines = [local if line.startswith("  tagger:  ") else line for line in text.split("\n")]
    recipe.write_text("\n".join(lines).replace("name: quickstart", "name: noise", 1))
    code, said = widen("validate", recipe, "--workspace", workspace)
    assert code == 3, said
    assert "tagger" in said
    page = workspace / "runs" / "noise" / "validation" / "index.html"
    assert "tagger" in page.read_text()
