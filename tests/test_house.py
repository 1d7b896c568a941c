"""The rules of the house, held fast: imports, weight at start-up, sizes, what no code may do, and the README's tree."""

import ast
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "registry", "tasks", "widen")
HEAVY = set(
    "dvc great_expectations lm_eval mlflow numba optuna pandas prefect pyarrow scipy sklearn torch transformers".split()
)
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLE_DOOR = ROOT / "widen" / "convert" / "child.py"
LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FUNCTION = 350, 40, 15


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


SHIPPED = sources(*PACKAGES, "bench")
WRITTEN = [*SHIPPED, *sources("tests")]
every_shipped_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
every_written_file = pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}",
                (node.end_lineno or node.lineno) - node.lineno + 1,
            )


# Imports


def test_import_contracts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == 0, capsys.readouterr().out


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    report = "import json, sys; print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_widen_loads_nothing_heavy() -> None:
    assert loaded_by("import widen") & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["merge", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from flows.cli import main
sys.argv = ["widen", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert loaded_by(code) & HEAVY == set()


def test_reading_a_recipe_loads_nothing_heavy() -> None:
    code = (
        "from pathlib import Path; from flows.recipe import load_recipe; load_recipe(Path('recipes/quickstart.yaml'))"
    )
    assert loaded_by(code) & HEAVY == set()


# What no code may do


@every_shipped_file
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in module} & PICKLERS, f"line {node.lineno}"
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert (path, words.get("weights_only")) == (PICKLE_DOOR, "True"), f"line {node.lineno}"
            trusting = [word for word in node.keywords if word.arg in ("trust_remote_code", "allow_pickle")]
            assert all(ast.unparse(word.value) == "False" for word in trusting), f"line {node.lineno}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert "trust_remote_code=True" not in node.value, f"line {node.lineno}"


@every_written_file
def test_no_path_of_one_machine(path: Path) -> None:
    places = r"[\"'(\s=](/(?:root|home/[a-z]+|Users/[A-Za-z]+|work|tmp)/\w[^\s\"']*)"
    found = re.search(places, path.read_text(encoding="utf-8"))
    assert found is None, found


# Sizes


@every_shipped_file
def test_a_file_stays_readable(path: Path) -> None:
    assert path.name != "utils.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    assert [name for name, lines in functions(path) if lines > LONGEST_FUNCTION] == []


def test_functions_are_short() -> None:
    assert statistics.median(lines for path in sources(*PACKAGES) for _, lines in functions(path)) < MEDIAN_FUNCTION


def test_test_folders_shadow_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


# The README's tree


def readme_tree() -> list[str]:
    """The paths that the tree in the README names, folders with a `/` at the end.

    The tree is the fenced block that names `flows/`. A line gives one or more names, then, after two spaces or more, a
    caption; deeper lines stand inside the folder above them.
    """
    blocks = re.findall(
        r"^```[a-z]*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    block = next(block for block in blocks if re.search(r"^\W*flows/", block, re.MULTILINE))
    paths: list[str] = []
    folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        plain = re.sub(r"[│├└─]", " ", line)
        depth = len(plain) - len(plain.lstrip())
        folders = [folder for folder in folders if folder[0] < depth]
        inside = folders[-1][1] if folders else ""
        names = re.split(r"\s{2,}", plain.strip())[0].split()
        paths += [inside + name for name in names]
        folders += [(depth, inside + name) for name in names if name.endswith("/")]
    return paths


def test_readme_tree_names_what_exists() -> None:
    assert [path for path in readme_tree() if not list(ROOT.glob(path))] == []


def test_readme_tree_names_every_module() -> None:
    named = readme_tree()
    modules = {str(path.relative_to(ROOT)) for path in sources(*PACKAGES) if path.name != "__init__.py"}
    assert modules - set(named) == set()


def test_readme_tree_names_every_file_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {path.split("/")[0] for path in listed.stdout.splitlines()}
    named = {path.split("/")[0] for path in readme_tree()}
    assert top - named - {"README.md", ".gitignore"} == set()
