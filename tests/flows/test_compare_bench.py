"""What a comparison's figures stand on: a change of any of it is seen, between two runs or in one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from flows.compare.bench import Bench, Merged, _refuse_adapters
from flows.compare.plan import Candidate, defaults, plan_of, tried
from flows.compare.result import Figure, Tried
from flows.compare.run import _entry, _identity
from flows.compare.search import Contest
from flows.recipe import load_recipe
from flows.road import Road, plainly
from registry.comparison_run import scores_of
from registry.kept_share import Kept
from registry.scorecard import Document, Scorecard, TaskScores
from tasks.side_by_side import Here
from tasks.sources import Fetched
from tests.flows.test_recipe import WHOLE, load
from widen.errors import InputsRefused

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: help.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
TEXT = WHOLE + "compare: {methods: [widen, ties], search: {widen: {s: [0.5, 0.7]}}, trials: 2}\n"
TRIALS = ["widen, trial 1", "widen, trial 2"]


def filled(folder: Path) -> Path:
    """What a comparison reads, without a model that could be merged."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "help.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    for name in ("app_en", "bpb_id"):
        (folder / "evaluation" / f"{name}.yaml").write_text(TASK.format(name=name))
    for name in ("base", "tagger", "indonesian"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return filled(tmp_path / "workspace")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose search gave up both of its trials: making a study takes longer than using it."""
    folder = filled(tmp_path_factory.mktemp("searched") / "workspace")
    assert asked(contest(folder)) == ["widen, defaults", *TRIALS, "ties, defaults"]
    return folder


@dataclass(frozen=True)
class Refusing(Bench):
    """Every candidate is refused, after `meanwhile`."""

    meanwhile: Callable[[], object] = lambda: None
    asked: list[str] = field(default_factory=list)

    def begin(self, candidate: Candidate, _side: str, _slots: int) -> Callable[[], Merged]:
        self.asked.append(candidate.name)
        self.meanwhile()
        raise InputsRefused("a tensor of the merge is not finite")


def contest(workspace: Path, text: str = TEXT, meanwhile: Callable[[], object] = lambda: None) -> Contest:
    (workspace / "recipe.yaml").write_text(text)
    recipe = load_recipe(workspace / "recipe.yaml")
    road = Road(recipe, workspace, "cpu", plainly)
    sources = tuple(Fetched(name, workspace / name, name, None, None, None, None, None) for name in recipe.inputs)
    contents = {one.name: content(one.folder, workspace) for one in sources}
    digests = {name: name for name in recipe.inputs}
    plan = plan_of(recipe, None, None)
    bench = Refusing(road, plan, sources, digests, contents, Here(plainly), meanwhile=meanwhile)
    return Contest(bench, (), Scorecard("base", "d", "h", ()), {}, recipe.require("gates").alpha, bench.identity())


def content(folder: Path, workspace: Path) -> str | None:
    from tasks.content import content_of_folder

    return content_of_folder(folder, workspace)


def asked(one: Contest) -> list[str]:
    """The candidates that were tried: all were refused."""
    assert list(one.candidates({})) == []
    return one.bench.asked  # type: ignore[attr-defined, no-any-return]


def test_what_was_given_up_stays_so_and_is_told_again(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(contest(searched)) == ["widen, defaults", "ties, defaults"]
    told = "compare: widen: 2 of 2 trials given up before, a tensor of the merge is not finite"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{t: 1.0, s: 1.0}", "{t: 0.9, s: 1.0}"),
        ("dtype: bfloat16", "dtype: float16"),
        ("  dtype: bfloat16", "  tokenizer_source: union\n  dtype: bfloat16"),
    ],
)
def test_a_study_is_of_the_recipes_own_settings(old: str, new: str, searched: Path) -> None:
    """What was found with others is no value of these."""
    assert old in TEXT
    assert asked(contest(searched, TEXT.replace(old, new, 1)))[1:3] == TRIALS


def test_keys_that_may_differ_are_part_of_it(workspace: Path) -> None:
    other = contest(workspace, TEXT.replace("allow_config: []", "allow_config: [rope_theta]"))
    assert other.identity != contest(workspace).identity


def test_another_engine_begins_anew(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contest(workspace)
    monkeypatch.setattr("widen.version.ENGINE", {"name": "widen", "version": "9", "arithmetic": "another"})
    after = contest(workspace)
    assert before.identity != after.identity
    assert _identity(before) != _identity(after)


@pytest.mark.parametrize(("old", "new"), [("alpha: 0.05", "alpha: 0.1"), ("{t: 1.0, s: 1.0}", "{t: 0.9, s: 1.0}")])
def test_the_registrys_run_is_of_alpha_and_the_merge_section(old: str, new: str, workspace: Path) -> None:
    assert _identity(contest(workspace)) == _identity(contest(workspace))
    assert _identity(contest(workspace)) != _identity(contest(workspace, TEXT.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("file", "told"),
    [("tagger/config.json", "the files of tagger changed"), ("evaluation/help.jsonl", "a task, its data or how")],
)
def test_a_change_meanwhile_stops_the_comparison(file: str, told: str, workspace: Path) -> None:
    whole = (workspace / file).read_text()
    calls: list[str] = []

    def edit() -> None:
        calls.append(file)
        if len(calls) == 2:  # the first trial
            (workspace / file).write_text(whole + " ")

    with pytest.raises(InputsRefused, match=told):
        asked(contest(workspace, meanwhile=edit))
    (workspace / file).write_text(whole)
    assert asked(contest(workspace))[1:3] == TRIALS  # none was given up for it


@pytest.mark.parametrize("name", ["candidate", "scored", "merges", "studies"])
def test_no_recipes_name_is_that_of_a_scratch_folder(name: str, workspace: Path) -> None:
    one = contest(workspace, TEXT.replace("name: quickstart", f"name: {name}", 1))
    bench = one.bench
    for scratch in (bench._place(0), bench.folder / "scored", bench._record("key").parent):
        assert not bench.studies.is_relative_to(scratch)
        assert not scratch.is_relative_to(bench.studies)


def test_an_adapter_alone_is_refused_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputsRefused, match=r"tone: a comparison merges whole models.*passthrough"):
        _refuse_adapters((Fetched("tone", tmp_path, "tone", None, None, None, None, None),))


def test_a_filtered_metric_has_one_name_on_both_sides(tmp_path: Path) -> None:
    documents = tuple(Document(f"d{i}", "t", i % 2) for i in range(4))
    score = TaskScores("gsm8k", "exact_match", "strict", "proportion", True, "1", "h", documents)
    card = Scorecard("base", "d", "h", (score, replace(score, filter="flexible@5"), replace(score, filter="none")))
    figure = Figure(0.5, 0.4, 0.6)
    scores = dict.fromkeys((one.label for one in card.tasks), figure)
    winner = Tried(defaults(load(tmp_path, WHOLE), "ties"), "key", "d", Kept(0.5, {}), {}, figure, scores)
    named = [key.removeprefix("selection/") for key in _entry(winner, card).metrics if key.startswith("selection/")]
    assert sorted(named) == sorted(key.removeprefix("gate/") for key in scores_of(card, "gate"))
    assert "gsm8k/exact_match/strict" in named


@pytest.mark.parametrize("written", ["models//tagger", "models/tagger/", "../team@home/tagger"])
def test_parameters_go_by_models_names(written: str, tmp_path: Path) -> None:
    """MLflow refuses names that are no plain paths, or hold characters such as @; every model's own name is fit."""
    recipe = load(
        tmp_path, WHOLE.replace("{model: tagger}", f"{{model: {written}}}").replace("  tagger: {repo", "  x: {repo")
    )
    candidate = tried(recipe, "ties", 0, {"weight.tagger": 0.4})
    assert candidate.parameters["weight.tagger"] == 0.4
    found = Tried(candidate, "key", "d", Kept(0.5, {}), {}, Figure(0.5, 0.4, 0.6), {})
    assert _entry(found, Scorecard("base", "d", "h", ())).params["weight.tagger"] == "0.4"
