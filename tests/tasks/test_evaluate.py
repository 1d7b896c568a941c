"""Scoring with the real harness on the quickstart's real checkpoints, a few documents at a time."""

import dataclasses
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.scorecard import Scorecard
from tasks.evaluate import EvaluateSettings, count_documents, evaluate
from tasks.samples import task_scores
from tasks.split import Part
from widen.errors import EnvironmentFault, InputsRefused, RecipeError

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
CHECKPOINTS = QUICKSTART / "checkpoints"
TASKS = ("app_en", "app_id", "bpb_en", "bpb_id")
FEW = EvaluateSettings(TASKS, QUICKSTART / "evaluation", batch_size=8, limit=6)
UP_PROJ = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six documents a task of a copy of tagger-v1, scored; the copy is deleted afterwards."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(CHECKPOINTS / "tagger-v1", folder / "checkpoint")
    score(folder, "tagger", folder / "checkpoint", "digest-of-tagger")
    shutil.rmtree(folder / "checkpoint")
    return folder


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """altered(change) -> a copy of the base checkpoint whose tensors `change` had its hands on."""

    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        from safetensors.torch import load_file, save_file

        folder = tmp_path / "altered"
        shutil.copytree(CHECKPOINTS / "base", folder)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def score(workspace: Path, model: str, folder: Path, digest: str, settings: EvaluateSettings = FEW) -> Scorecard:
    out = workspace / "runs" / "scorecards" / f"{model}.json"
    assert evaluate.fn(model, folder, digest, settings, workspace / ".widen" / "scorecards", out) == out
    return Scorecard.from_json(out.read_text(encoding="utf8"))


def own_tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation"
    shutil.copytree(QUICKSTART / "evaluation", folder)
    return folder


def test_a_scorecard_holds_every_document(workspace: Path) -> None:
    card = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8"))
    assert (card.model, card.digest) == ("tagger", "digest-of-tagger")
    assert re.fullmatch(r"lm-eval \d+\.\d+.*", card.harness)
    held = {(one.task, one.metric): (one.kind, one.higher_is_better, len(one.documents)) for one in card.tasks}
    assert held == {
        ("app_en", "acc"): ("proportion", True, 6),
        ("app_id", "acc"): ("proportion", True, 6),
        ("bpb_en", "bits_per_byte"): ("ratio", False, 6),
        ("bpb_id", "bits_per_byte"): ("ratio", False, 6),
    }


def test_bits_per_byte_weighs_by_utf8_bytes(workspace: Path) -> None:
    card = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8"))
    lines = (QUICKSTART / "evaluation/help.id.jsonl").read_text(encoding="utf8").splitlines()[:6]
    expected = sorted(float(len(json.loads(line)["text"].encode())) for line in lines)
    assert sorted(document.weight for document in card.get("bpb_id", "bits_per_byte").documents) == expected


def test_the_samples_lie_beside_the_scorecard_and_match_it(workspace: Path) -> None:
    lines = (workspace / "runs/scorecards/tagger.samples.jsonl").read_text(encoding="utf8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 4 * 6
    card = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8"))
    logged = {(s["doc_hash"], s["target_hash"]): s["acc"] for s in samples if s["task"] == "app_en"}
    assert {document.key: document.score for document in card.get("app_en", "acc").documents} == logged


def test_data_sets_are_cached_in_the_workspace(workspace: Path) -> None:
    assert list((workspace / ".widen/huggingface/datasets").rglob("*.arrow"))


def test_a_second_call_answers_without_the_checkpoint(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8"))
    again = score(workspace, "champion", workspace / "checkpoint", "digest-of-tagger")
    assert again == dataclasses.replace(first, model="champion")
    assert (workspace / "runs/scorecards/champion.samples.jsonl").is_file()
    assert "at hand" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"limit": 5}, {"dtype": "bfloat16"}, {"num_fewshot": 1}, {"system_instruction": "Answer."}, {"max_length": 100}],
    ids=lambda change: next(iter(change)),
)
def test_other_questions_are_not_answered_from_the_kept_scores(workspace: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputsRefused, match="expected a checkpoint folder"):
        score(workspace, "tagger", workspace / "checkpoint", "digest-of-tagger", dataclasses.replace(FEW, **change))


def test_the_sides_of_a_split_are_asked_apart_and_make_up_the_whole(tmp_path: Path) -> None:
    """Each side is pinned by what was asked of it, and kept apart from the other and from the whole."""
    whole = dataclasses.replace(FEW, tasks=("app_en", "bpb_en"), limit=14)
    asked = {side: dataclasses.replace(whole, part=Part(side, 0.5, 0)) for side in ("selection", "gate")}
    cards = {
        name: score(tmp_path, "base", CHECKPOINTS / "base", "d", one) for name, one in (asked | {"all": whole}).items()
    }
    for task, metric in (("app_en", "acc"), ("bpb_en", "bits_per_byte")):
        held = {name: card.get(task, metric) for name, card in cards.items()}
        apart = [document for side in asked for document in held[side].documents]
        assert sorted(one.key for one in apart) == [one.key for one in held["all"].documents]
        alone = {one.key: one.score for one in apart}
        assert all(alone[one.key] == pytest.approx(one.score, abs=1e-4) for one in held["all"].documents)
        assert len({one.task_hash for one in held.values()}) == len({one.prompts_hash for one in held.values()}) == 3
    sides = {
        task: {one.doc_hash for one in cards["gate"].get(*task).documents}
        for task in (("app_en", "acc"), ("bpb_en", "bits_per_byte"))
    }
    assert len(set(map(frozenset, sides.values()))) == 1  # one paragraph, asked by two tasks, is on one side
    again = score(tmp_path, "base", tmp_path / "gone", "d", asked["gate"])
    assert again == cards["gate"]


def test_another_task_is_the_only_one_asked(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, two = dataclasses.replace(FEW, tasks=("bpb_en",)), dataclasses.replace(FEW, tasks=("app_en", "bpb_en"))
    folder = workspace / "other"
    apart = score(folder, "tagger", CHECKPOINTS / "tagger-v1", "digest-of-tagger", one)
    both = score(folder, "tagger", CHECKPOINTS / "tagger-v1", "digest-of-tagger", two)
    assert "tagger: evaluating app_en (bpb_en: at hand)" in caplog.text
    whole = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8"))
    assert apart.tasks == both.tasks[1:] == whole.tasks[2:3]
    assert both.tasks[0] == whole.tasks[0]  # asked alone or with others, the same


def test_the_same_again_needs_neither_lm_eval_nor_the_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "torch", "transformers", "datasets", "tasks.harness"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it now fails
    score(workspace, "again", workspace / "checkpoint", "digest-of-tagger")
    assert count_documents(FEW, workspace / ".widen" / "scorecards") == dict.fromkeys(TASKS, 6)


@pytest.mark.parametrize(
    ("edit", "asked"),
    [
        (("help.en.jsonl", '"text": "', '"text": "Now: '), "app_en, bpb_en (app_id, bpb_id: at hand)"),
        (
            ("bpb_id.yaml", "metadata: {version: 1}", "metadata: {version: 2}"),
            "bpb_id (app_en, app_id, bpb_en: at hand)",
        ),
        (("common", "Writer, Calc", "Calc, Writer"), "app_id (app_en, bpb_en, bpb_id: at hand)"),
    ],
    ids=["document", "task file", "included file"],
)
def test_an_edit_asks_only_what_it_defines(
    workspace: Path, tmp_path: Path, edit: tuple[str, str, str], asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, cache = own_tasks(tmp_path), dataclasses.replace(FEW, include_path=tmp_path / "evaluation")
    text = (folder / "app_id.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("doc_to_choice"))
    (folder / "app_id.yaml").write_text(text.replace(line, "include: common"))
    (folder / "common").write_text(line)
    score(workspace, "same", workspace / "checkpoint", "digest-of-tagger", cache)  # moved about, and still the same
    name, old, new = edit
    (folder / name).write_text((folder / name).read_text().replace(old, new, 1))
    caplog.set_level(logging.INFO)
    with pytest.raises(InputsRefused, match="expected a checkpoint folder"):
        score(workspace, "edited", workspace / "checkpoint", "digest-of-tagger", cache)
    assert f"edited: evaluating {asked}" in caplog.text


def test_an_edit_of_nothing_that_is_asked_costs_nothing(workspace: Path, tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    (folder / "app_en.yaml").write_text("# a remark\n" + (folder / "app_en.yaml").read_text())
    (folder / "another.yaml").write_text("task: another\n")
    score(
        workspace,
        "same",
        workspace / "checkpoint",
        "digest-of-tagger",
        dataclasses.replace(FEW, include_path=folder),
    )


@pytest.mark.parametrize(
    "change", [{"system_instruction": "Answer."}, {"num_fewshot": 1}], ids=lambda change: next(iter(change))
)
def test_other_prompts_have_another_hash_on_the_same_documents(workspace: Path, change: dict[str, Any]) -> None:
    settings = dataclasses.replace(FEW, tasks=("app_en",), **change)
    (other,) = score(workspace / "prompts", "tagger", CHECKPOINTS / "tagger-v1", "digest-of-tagger", settings).tasks
    plain = Scorecard.from_json((workspace / "runs/scorecards/tagger.json").read_text(encoding="utf8")).tasks[0]
    assert {one.key for one in other.documents} == {one.key for one in plain.documents}
    assert re.fullmatch("[0-9a-f]{64}", plain.prompts_hash)
    assert other.prompts_hash != plain.prompts_hash


@pytest.mark.slow
def test_documents_are_counted_without_a_model() -> None:
    assert count_documents(dataclasses.replace(FEW, limit=None)) == dict.fromkeys(TASKS, 600)
    assert count_documents(dataclasses.replace(FEW, limit=7, tasks=("app_en",))) == {"app_en": 7}
    with pytest.raises(RecipeError, match="did you mean 'app_en'"):
        count_documents(dataclasses.replace(FEW, tasks=("app_em",)))


def test_documents_that_only_lm_eval_can_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = own_tasks(tmp_path), tmp_path / ".widen" / "scorecards"
    with (folder / "app_en.yaml").open("a") as task:
        task.write("process_docs: !function pick.half\n")
    (folder / "pick.py").write_text("def half(docs):\n    return docs.select(range(len(docs) // 2))\n")
    settings = EvaluateSettings(("app_en", "app_id"), folder)
    assert count_documents(settings, cache) == {"app_en": 300, "app_id": 600}
    monkeypatch.setitem(sys.modules, "tasks.harness", None)
    assert count_documents(settings, cache) == {"app_en": 300, "app_id": 600}  # kept
    (folder / "pick.py").write_text("def half(docs):\n    return docs\n")
    with pytest.raises(ImportError):
        count_documents(settings, cache)


def test_batches_and_devices_do_not_ask_again(workspace: Path) -> None:
    score(workspace, "same", workspace / "checkpoint", "digest-of-tagger", dataclasses.replace(FEW, batch_size=2))


def test_an_edited_data_file_asks_again(workspace: Path, tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    same = dataclasses.replace(FEW, include_path=folder)
    score(workspace, "copied", workspace / "checkpoint", "digest-of-tagger", same)
    with (folder / "help.en.jsonl").open("a", encoding="utf8") as data:
        data.write('{"page": "x", "text": "one more", "application": "Calc"}\n')
    with pytest.raises(InputsRefused, match="expected a checkpoint folder"):
        score(workspace, "copied", workspace / "checkpoint", "digest-of-tagger", same)


def test_nothing_is_printed_without_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    score(tmp_path, "base", CHECKPOINTS / "base", "base", dataclasses.replace(FEW, limit=2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda held: held.pop(UP_PROJ), "the checkpoint does not hold it"),
        (lambda held: held.update({"model.extra.weight": held[UP_PROJ].clone()}), "has no such tensor"),
        (
            lambda held: held.update({UP_PROJ: held[UP_PROJ][:-1].clone()}),
            r"expected shape \(352, 128\), found \(351, 128\)",
        ),
        (lambda held: held[UP_PROJ][0, 0].fill_(float("nan")), "1 of 45056 NaN or infinite"),
        (lambda held: held[UP_PROJ][0, 0].fill_(float("-inf")), "1 of 45056 NaN or infinite"),
    ],
    ids=["missing", "extra", "shape", "nan", "inf"],
)
def test_a_damaged_checkpoint_is_refused_by_name(
    altered: Callable[..., Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    tensor = "model.extra.weight" if "no such" in expected else UP_PROJ
    with pytest.raises(InputsRefused, match=rf"(?s)^chat: .*{re.escape(tensor)}: .*{expected}"):
        score(tmp_path, "chat", altered(change), "damaged")
    assert not (tmp_path / "runs").exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(CHECKPOINTS / "base", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputsRefused, match=r"^chat: expected a causal language model in safetensors"):
        score(tmp_path, "chat", folder, "pickled")


def test_arithmetic_that_overflows_names_task_and_document(altered: Callable[..., Path], tmp_path: Path) -> None:
    folder = altered(lambda held: held["model.norm.weight"].fill_(3e38))
    with pytest.raises(InputsRefused, match=r"^chat: task app_en, document \d+ \([0-9a-f]{12}\): expected finite"):
        score(tmp_path, "chat", folder, "overflows", dataclasses.replace(FEW, limit=2))


def test_a_misspelt_task_names_the_nearest(tmp_path: Path) -> None:
    settings = dataclasses.replace(FEW, tasks=("app_em",))
    with pytest.raises(RecipeError, match=r"'app_em' is not a task of .*; did you mean 'app_en'\?"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", settings)


def test_a_task_without_documents_is_an_error(tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    (folder / "help.en.jsonl").write_text("")
    with pytest.raises(RecipeError, match=r"task app_en: its data file .*help\.en\.jsonl is empty"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", dataclasses.replace(FEW, include_path=folder))


def test_data_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    (folder / "help.en.jsonl").rename(tmp_path / "help.en.jsonl")
    task = folder / "app_en.yaml"
    task.write_text(task.read_text().replace("help.en.jsonl", "../help.en.jsonl"))
    with pytest.raises(RecipeError, match=r"expected its data file '\.\./help\.en\.jsonl' beside its YAML"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", dataclasses.replace(FEW, include_path=folder))


def test_tags_and_groups_stand_for_their_tasks(tmp_path: Path) -> None:
    folder = own_tasks(tmp_path)
    (folder / "both.yaml").write_text("group: both\ntask: [app_en, app_id]\n")
    settings = dataclasses.replace(FEW, include_path=folder, tasks=("both",), limit=2)
    card = score(tmp_path, "base", CHECKPOINTS / "base", "base", settings)
    assert [one.task for one in card.tasks] == ["app_en", "app_id"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limit": 0}, "limit"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_fewshot": -1}, "num_fewshot"),
        ({"tasks": ()}, "tasks"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=rf"^evaluate\.{named}: expected"):
        dataclasses.replace(FEW, **change)


def test_an_unknown_dtype_and_an_absent_device(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.dtype: expected one of float32.*found 'float8'"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", dataclasses.replace(FEW, dtype="float8"))
    with pytest.raises(EnvironmentFault, match=r"evaluate\.device: 'cuda:99' is not usable"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", dataclasses.replace(FEW, device="cuda:99"))


@pytest.mark.slow
def test_sooner_gives_the_harness_s_own_answers() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from tasks.checked_model import load_checked
    from tasks.sooner import Sooner

    loaded, tokenizer = load_checked("base", CHECKPOINTS / "base", "float32", "cpu")
    lines = (QUICKSTART / "evaluation/help.id.jsonl").read_text(encoding="utf8").splitlines()[:5]
    texts = [json.loads(line)["text"] for line in lines] + ["<s>a", "x " * 300]
    plain = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=4)
    sooner = type("Model", (Sooner, HFLM), {})(pretrained=loaded, tokenizer=tokenizer, batch_size=4)
    answers = (" Writer", " Chart", " a much longer answer", "\n<s>")
    # <s> has the number that batches are padded with: rows that end in it must not be cut short
    pairs = [(text[:900] + "\nApp:", answer) for text in texts for answer in answers] + [
        ("the <s>", " end"),
        ("", "a b"),
    ]
    for kind, arguments in (("loglikelihood", pairs), ("loglikelihood_rolling", [(text,) for text in texts])):
        theirs, ours = (
            getattr(lm, kind)(
                [Instance(kind, {}, one, 0, ("t", i, 1)) for i, one in enumerate(arguments)], disable_tqdm=True
            )
            for lm in (plain, sooner)
        )
        flat = [one if kind.endswith("rolling") else one[0] for one in theirs]
        assert [one if kind.endswith("rolling") else one[0] for one in ours] == pytest.approx(flat, rel=1e-4)


def logged(metric: str, values: list[Any], hashes: list[str] | None = None, **also: Any) -> dict[str, Any]:
    """A harness result of one task, as far as `task_scores` reads it."""
    names = hashes or [f"hash{i}" for i in range(len(values))]
    samples = [
        {"doc_id": i, "doc": {"page": f"page{i // 2}"}, "doc_hash": name, "target_hash": "t", "filter": "none",
         "arguments": [("question", "answer")], "metrics": [metric], "resps": [], metric: value}
        for i, (name, value) in enumerate(zip(names, values, strict=True))
    ]  # fmt: skip
    figure = also.pop("figure", None)
    return {
        "samples": {"one": samples},
        "configs": {"one": {"task": "one", **also}},
        "versions": {"one": 1},
        "higher_is_better": {"one": {metric: True}},
        "results": {"one": {f"{metric},none": sum(values) / len(values) if figure is None else figure}},
    }


def test_equal_documents_keep_different_keys() -> None:
    (scores,) = task_scores("m", "one", logged("acc", [0, 1, 1], hashes=["a", "b", "a"]))
    assert [(one.doc_hash, one.score) for one in scores.documents] == [("a", 0.0), ("a#2", 1.0), ("b", 1.0)]


def test_a_mean_is_not_a_proportion() -> None:
    assert task_scores("m", "one", logged("rouge", [0.5, 1.0]))[0].kind == "mean"


def test_a_task_can_name_its_clusters() -> None:
    (scores,) = task_scores("m", "one", logged("acc", [0, 1, 1], metadata={"cluster": "page"}))
    assert [one.cluster for one in scores.documents] == ["page0", "page0", "page1"]


def test_a_document_without_its_cluster_is_named() -> None:
    told = "task one, document 0: its clusters are named by the field 'article' .* it holds page"
    with pytest.raises(RecipeError, match=told):
        task_scores("m", "one", logged("acc", [0, 1], metadata={"cluster": "article"}))


def test_hashes_do_not_depend_on_where_a_function_lies_in_memory() -> None:
    one, two = (task_scores("m", "one", logged("acc", [0, 1], doc_to_text=[object()]))[0].task_hash for _ in range(2))
    assert one == two


def test_answers_to_choose_from_are_part_of_the_prompts() -> None:
    results = logged("acc", [0, 1])
    first = task_scores("m", "one", results)[0].prompts_hash
    results["samples"]["one"][0]["arguments"] = [("question", "another answer")]
    assert task_scores("m", "one", results)[0].prompts_hash != first


def test_the_same_questions_have_the_same_hash_wherever_they_lie() -> None:
    here, there, other = (
        task_scores("m", "one", logged("acc", values, dataset_kwargs={"data_files": place}, doc_to_text=text))[
            0
        ].task_hash
        for values, place, text in (([0, 1], "/a", "x"), ([1, 1], "/b", "x"), ([0, 1], "/a", "y"))
    )
    assert here == there != other


def test_a_figure_that_is_no_mean_of_documents_is_left_out() -> None:
    with pytest.raises(RecipeError, match="task one: none of its metrics is a mean"):
        task_scores("m", "one", logged("f1", [0.0, 1.0], figure=0.9))


def test_a_score_that_is_not_finite_names_its_document() -> None:
    with pytest.raises(InputsRefused, match=r"m: task one, document 1 \(hash1\): expected finite scores, found nan"):
        task_scores("m", "one", logged("acc", [0.0, float("nan")]))


@pytest.mark.slow
def test_without_a_folder_the_tasks_are_lm_eval_s_own(tmp_path: Path) -> None:
    settings = EvaluateSettings(("arc_esy",))
    with pytest.raises(RecipeError, match=r"'arc_esy' is not a task of lm-eval; did you mean 'arc_easy'\?"):
        score(tmp_path, "base", CHECKPOINTS / "base", "base", settings)


@pytest.mark.slow
def test_the_readme_s_table(tmp_path: Path) -> None:
    model = "tagger-v2"  # the demo's own scores are compared with the rows of the others
    rows = [line.strip("| ").split(" | ") for line in (QUICKSTART / "README.md").read_text().splitlines()]
    (expected,) = ([float(cell) for cell in row[1:]] for row in rows if row[0] == model and len(row) == 5)
    card = score(tmp_path, model, CHECKPOINTS / model, model, EvaluateSettings(TASKS, QUICKSTART / "evaluation"))
    asked = (("bpb_en", "bits_per_byte"), ("app_en", "acc"), ("bpb_id", "bits_per_byte"), ("app_id", "acc"))
    assert [card.get(*one).value for one in asked] == pytest.approx(expected, abs=1e-3)
    assert all(len(one.documents) == 600 for one in card.tasks)
