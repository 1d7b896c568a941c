"""Task files read without lm-eval mean what lm-eval takes them for."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.task_definitions import Definition, definitions
from widen.errors import RecipeError

EVALUATION = Path(__file__).parents[2] / "examples" / "quickstart" / "evaluation"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The quickstart's tasks, with includes, tags, nested groups and overrides around them."""
    made = tmp_path / "evaluation"
    shutil.copytree(EVALUATION, made)
    write(made / "deeper" / "shared", "include: shots\ntag: [short, all]\ntarget_delimiter: ''\n")
    write(made / "deeper" / "shots", "num_fewshot: 2\ntarget_delimiter: '?'\n")
    write(made / "deeper" / "one.yaml", f"include: [{made / 'app_en.yaml'}, shared]\ntask: one\n" + data("../help.en"))
    write(made / "deeper" / "two.yaml", "include: one.yaml\ntask: two\ntag: all\nnum_fewshot: 3\n")
    write(
        made / "groups.yaml",
        "group: outer\nfewshot_delimiter: '--'\nnum_fewshot: 4\ntask:\n  - app_id\n  - group: inner\n"
        "    group_alias: In\n    num_fewshot: 5\n    task: [two, {task: one, num_fewshot: 6}]\n  - task: bpb_id\n"
        "    doc_to_target: page\n  - group: pair\n    num_fewshot: 7\n",
    )
    write(made / "pair.yaml", "group: pair\ntask: [bpb_en]\n")
    return made


def data(name: str) -> str:
    return f"dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def read(folder: Path, *names: str) -> dict[str, Definition]:
    return {one.task: one for one in definitions(names, folder, None)}


@pytest.mark.slow
def test_names_and_settings_are_lm_evals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    ours = read(folder, "outer")
    expected = {"app_id": 4, "two": 4, "one": 6, "bpb_id": 4, "bpb_en": 7}
    assert {name: one.config["num_fewshot"] for name, one in ours.items()} == expected
    for name in ("app_en", "app_id", "bpb_en", "bpb_id"):  # lm-eval looks for data in the current folder
        task = folder / f"{name}.yaml"
        task.write_text(task.read_text().replace("help.", f"{folder}/help."))
    monkeypatch.chdir(folder / "deeper")
    theirs = TaskManager(include_path=str(folder), include_defaults=False).load(["outer"])["tasks"]
    assert ours.keys() == theirs.keys()
    for name, task in theirs.items():
        held = {key: task.get_config(key) for key in ours[name].config if key not in ("dataset_kwargs", "metadata")}
        assert held == {key: value for key, value in ours[name].config.items() if key in held}


def test_a_tag_stands_for_its_tasks_in_order(folder: Path) -> None:
    assert list(read(folder, "all", "bpb_en")) == ["one", "two", "bpb_en"]
    assert list(read(folder, "short")) == ["one"]


def test_a_task_named_twice_is_asked_once_and_never_in_two_ways(folder: Path) -> None:
    assert list(read(folder, "one", "all")) == ["one", "two"]
    with pytest.raises(RecipeError, match="outer brings the task app_id again, set otherwise"):
        read(folder, "app_id", "outer")


EDITS: dict[str, tuple[str, str, str, bool]] = {
    "document": ("help.en.jsonl", "the", "The", True),
    "its file": ("deeper/two.yaml", "num_fewshot: 3", "num_fewshot: 2", True),
    "an included file of an included file": ("deeper/shots", "num_fewshot", "repeats", True),
    "a file above": ("app_en.yaml", "Writer, Calc", "Calc, Writer", True),
    "a remark": ("deeper/two.yaml", "task: two", "task: two  # mine", False),
    "another task": ("app_id.yaml", "Writer, Calc", "Calc, Writer", False),
    "a group that is not asked": ("groups.yaml", "num_fewshot: 5", "num_fewshot: 4", False),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_digest_follows_what_defines_the_task(folder: Path, edit: str) -> None:
    name, old, new, changes = EDITS[edit]
    before = read(folder, "two")["two"].digest()
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    assert (read(folder, "two")["two"].digest() != before) == changes


@pytest.mark.slow
def test_a_groups_settings_are_in_its_tasks_digests(folder: Path) -> None:
    before = {name: one.digest() for name, one in read(folder, "outer").items()}
    (folder / "groups.yaml").write_text(
        (folder / "groups.yaml").read_text().replace("num_fewshot: 4", "num_fewshot: 9")
    )
    after = {name: one.digest() for name, one in read(folder, "outer").items()}
    assert {name for name in before if before[name] != after[name]} == {"app_id", "two", "bpb_id"}


def test_python_beside_a_task_is_part_of_it_and_is_not_run(folder: Path) -> None:
    write(folder / "deeper" / "three.yaml", "include: one.yaml\ntask: three\nprocess_docs: !function own.pick\n")
    write(folder / "deeper" / "own.py", "raise SystemExit('this ran')\n")
    before = read(folder, "three")["three"].digest()
    write(folder / "helper.py", "own.py may import this\n")
    assert read(folder, "three")["three"].digest() != before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("loop.yaml", "include: loop.yaml\ntask: loop\n", r"'loop' is not a task of .*loop\.yaml \(it includes itself"),
        ("bad.yaml", "task: [\n", r"'bad' is not a task of .*; files there that cannot be read: bad\.yaml \("),
        ("ring.yaml", "group: ring\ntask: [ring]\n", r"the group ring holds itself, by ring > ring"),
        ("lost.yaml", "group: lost\ntask: [app_eu]\n", r"'app_eu' \(named by lost\) .* did you mean 'app_en'\?"),
        ("odd.yaml", "group: odd\ntask: [[1]]\n", r"group odd: expected a task's name or a mapping .*, found \[1\]"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, name: str, text: str, message: str) -> None:
    write(folder / name, text)
    with pytest.raises(RecipeError, match=message):
        read(folder, name.removesuffix(".yaml"))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.include_path: expected a folder of task YAML, found nothing at"):
        read(tmp_path / "none", "app_en")


@pytest.mark.slow
def test_lm_evals_own_index_is_read_alike_and_kept(folder: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    found: dict[str, Any] = {one.task: one for one in definitions(("hellaswag", "app_en"), folder, tmp_path)}
    assert found["hellaswag"].folder is None
    assert found["app_en"].folder == folder
    kept = (tmp_path / "lm-eval-tasks.json").read_bytes()
    groups = ("mmlu", "leaderboard", "ai2_arc", "belebele")
    ours = [one.task for one in definitions(groups, None, tmp_path)]
    assert (tmp_path / "lm-eval-tasks.json").read_bytes() == kept
    index = TaskManager().task_index
    from tasks.task_definitions import _harness_index

    held = {
        name: (entry.kind.name.lower().removeprefix("py_"), str(entry.yaml_path or "None"), tuple(sorted(entry.tags)))
        for name, entry in index.items()
    }
    read = _harness_index(tmp_path)
    assert {name: (one.kind, str(one.path)) for name, one in read.items()} == {n: row[:2] for n, row in held.items()}
    assert {n: one.tasks for n, one in read.items() if one.kind == "tag"} == {
        n: row[2] for n, row in held.items() if row[0] == "tag"
    }
    assert len(ours) > 200
