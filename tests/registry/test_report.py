"""The report: what it tells for every verdict, what it escapes, what it stores, and how it reads with many layers."""

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from registry.decision import NO_CHAMPION, Decision, Verdict
from registry.errors import RegistryError
from registry.gate import Absolute, Parent, decide
from registry.lineage import Ancestor, Input, Lineage, SourceRecord
from registry.provenance import Provenance
from registry.report import (
    Event,
    ModelChange,
    Override,
    Report,
    Reuse,
    Stage,
    Standing,
    TensorChange,
    build,
    describe,
    render,
    scores_picture,
    summarise,
)
from registry.report.drawing import forest, lanes
from registry.report.family import picture
from registry.report.heat import shares_by_layer, winner_grids
from registry.report.markdown import LIMIT
from registry.report.words import asked, banner, found, percent
from registry.scorecard import Document, Scorecard, TaskScores

MODULES = ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "input_layernorm")
VOID = {"meta", "link", "br", "line", "circle", "rect", "path", "img", "input", "hr"}


class Page(HTMLParser):
    """A page's text, tags and attributes; complains of tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def card(model: str, right: int, loss: float, digest: str) -> Scorecard:
    documents = tuple(Document(f"d{i:04}", "t", i < right) for i in range(100))
    accuracy = TaskScores("app", "acc", "none", "proportion", True, "1", "hash", documents)
    losses = tuple(Document(f"d{i:04}", "t", loss * (10 + i % 7), 10 + i % 5) for i in range(100))
    bits = TaskScores("text", "bits_per_byte", "none", "ratio", False, "1", "hash", losses)
    return Scorecard(model, digest, "lm-eval 0", (accuracy, bits))


def lineage_of(decision: Decision) -> Lineage:
    source = SourceRecord("base", "checkpoints/base", "../hub", "v1", "c" * 40)
    files = (("model.safetensors", "e" * 64),)
    inputs = (
        Input("base", source, "b" * 64, files),
        Input("model", dataclasses.replace(source, name="tagger", path="checkpoints/tagger"), "c" * 64, files),
    )
    ran = Provenance(None, False, "0.1", "CPython 3.11", "Linux x86_64", (("numpy", "2.0"),))
    settings = {"method": "widen", "t": 1.0, "s": 1.0, "out_dtype": None}
    return Lineage(
        "quickstart", "f" * 64, "name: quickstart\n", decision.merged_digest, files, "widen", settings, "widen 0",
        inputs, ran, "run-1", "a" * 64, str(decision.verdict), decision.digest(), (),
    )  # fmt: skip


def report_of(right: int = 80, layers: int = 2) -> Report:
    cards = [
        card("merged", right, 1.2, "d" * 64),
        card("base", 40, 1.5, "b" * 64),
        card("tagger", 85, 1.4, "c" * 64),
    ]
    clauses = (
        Absolute("app", "acc", floor=0.6),
        Absolute("text", "bits_per_byte", ceiling=2.0),
        Parent("app", "acc", "tagger", margin=0.2),
    )
    decision = decide(clauses, cards[0], cards[1], {"tagger": cards[2]}, 0.05)
    lineage = lineage_of(decision)
    return build(
        "quickstart", 3, decision, lineage, cards, (changes("tagger", layers), changes("indonesian", layers)),
        tuple(standings(layers)), Reuse(5, (("settings changed", 7),)), (Stage("merge", 1.25),), "the champion",
    )  # fmt: skip


def names(layers: int) -> Iterator[tuple[str, str]]:
    yield "", "model.embed_tokens.weight"
    for layer in range(layers):
        for module in MODULES:
            yield f"model.layers.{layer}", f"model.layers.{layer}.{module}.weight"


def changes(model: str, layers: int) -> ModelChange:
    tensors = tuple(
        TensorChange(tensor, layer, 1000, 900, 0.01 * (place + 1), 1e-5 * place)
        for place, (layer, tensor) in enumerate(names(layers))
    )
    return ModelChange(model, 1000 * len(tensors), 900 * len(tensors), 0.023, 0.00026, tensors)


def standings(layers: int) -> Iterator[Standing]:
    for layer, tensor in names(layers):
        yield Standing("tagger", tensor, layer, 64, 0.71, 0.3, 0.4)
        yield Standing("indonesian", tensor, layer, 64, 0.75, 0.35, 0.55)


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of()


@pytest.mark.parametrize(("right", "verdict"), [(80, "PASS"), (30, "FAIL"), (66, "INCONCLUSIVE")])
def test_the_verdict_is_told_first_and_in_words(right: int, verdict: str) -> None:
    drawn = report_of(right)
    assert str(drawn.decision.verdict) == verdict
    page = Page(render(drawn))
    shown = page.text[page.text.index(f"version {drawn.version}") :].split()
    assert shown[3] == verdict  # version, 3, the mark, the word
    assert re.match(rf". {verdict}: ", describe(drawn))
    words = {"PASS": "3 of 3", "FAIL": "The gate failed", "INCONCLUSIVE": "could not decide"}
    assert words[verdict] in page.text
    assert words[verdict] in summarise(drawn)


def test_an_override_is_told_before_the_verdict_it_overrode() -> None:
    override = Override("Ana Ruiz", "the licence of the old one ends today.", "2031-05-01T10:00:00Z")
    drawn = dataclasses.replace(report_of(30), override=override)
    told = banner(drawn)
    assert told.word == "OVERRIDDEN"
    assert told.text.startswith("Ana Ruiz promoted this version against the gate, which said FAIL, on 2031-05-01")
    assert "Reason: the licence of the old one ends today. The gate failed" in told.text
    page = Page(render(drawn))
    assert page.text.index("OVERRIDDEN") < page.text.index("Ana Ruiz") < page.text.index("The gate: may it")
    assert describe(drawn).startswith("! OVERRIDDEN: Ana Ruiz")


def test_the_page_stands_alone(report: Report) -> None:
    page = Page(render(report))
    assert not {"script", "link rel=stylesheet", "iframe", "img"} & set(page.tags)
    away = [
        value for _, name, value in page.attributes if name in ("href", "src") and not value.startswith(("#", "data:"))
    ]
    assert away == []
    assert "url(" not in render(report)
    assert "@import" not in render(report)
    heads = [tag for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert heads[0] == "h1"
    assert heads.count("h1") == 1
    assert page.tags.count("table") == page.tags.count("caption")
    labelled = [tag for tag, name, _ in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(labelled) == page.tags.count("svg")


def test_everything_an_auditor_looks_for_is_there(report: Report) -> None:
    entry = dataclasses.replace(
        report.lineage.inputs[1],
        made_from=(
            Ancestor("older", "base", "1" * 64, None, None, ()),
            Ancestor("mid", "model", "2" * 64, "r", "widen"),
        ),
    )
    made = dataclasses.replace(report.lineage, inputs=(report.lineage.inputs[0], entry))
    history = (Event(4, "promotion", "from version 2 to version 3", "ci", "2031-05-01"),)
    text = Page(render(dataclasses.replace(report, lineage=made, history=history))).text
    expected = (
        made.merged_digest, made.digest(), made.recipe_digest, made.decision_digest, made.validation_digest, "c" * 12,
        "checkpoints/tagger of ../hub at v1", "older", "first input", "widen merge by recipe r", "from version 2",
        "name: quickstart", "5 tensors were taken", "7 computed: settings changed", "1.2", "numpy", "widen verify",
        "Wilson", "0.8000", "indonesian", "model.embed_tokens", "down_proj", "A tagger: mean score",
    )  # fmt: skip
    for one in expected:
        assert one is not None
        assert one in text, one


def test_what_comes_from_recipes_and_models_is_escaped() -> None:
    evil = '<script>alert("1")</script>|`x`'
    drawn = report_of()
    source = SourceRecord(evil, evil, evil, evil, evil, None, evil)
    inputs = tuple(dataclasses.replace(one, source=source) for one in drawn.lineage.inputs)
    change = dataclasses.replace(drawn.changes[0], model=evil)
    tensor = dataclasses.replace(change.tensors[1], tensor=f"model.layers.0.{evil}")
    standing = dataclasses.replace(drawn.standings[0], model=evil, tensor=f"{evil}.weight", layer="")
    drawn = dataclasses.replace(
        drawn,
        lineage=dataclasses.replace(drawn.lineage, recipe=evil, recipe_text=f"# {evil}\n", inputs=inputs),
        changes=(dataclasses.replace(change, tensors=(tensor,)),),
        standings=(standing,),
        scores=(dataclasses.replace(drawn.scores[0], task=evil),),
        override=Override(evil, evil, evil),
        history=(Event(1, evil, evil, evil, evil),),
    )
    html = render(drawn)
    assert Page(html).tags.count("script") == 0
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;") > 10
    assert "<script" not in scores_picture(drawn)
    for text in (describe(drawn), summarise(drawn)):
        assert "<script" not in text
        assert all(row.count(" | ") in (3, 4) for row in text.splitlines() if row.startswith("| "))


def test_eighty_layers_stay_one_row_each() -> None:
    drawn = report_of(layers=80)
    html = render(drawn)
    assert len(html) < 600_000
    heads = re.findall(r'<th scope="row">(\d+)</th>', html)
    assert heads.count("79") == 6  # two figures of two models, the shares, the winners
    assert heads[:80] == [str(layer) for layer in range(80)]
    assert 'class="scroll heat tall layers" tabindex="0"' in html


def test_it_is_stored_and_drawn_again_the_same(report: Report) -> None:
    full = dataclasses.replace(
        report, override=Override("a", "b", "c"), history=(Event(1, "promotion", "x", "y", "z"),)
    )
    again = Report.from_json(full.to_json())
    assert again == full
    assert again.to_json() == full.to_json()
    assert render(again) == render(full)
    held = json.loads(full.to_json())
    for broken in ({**held, "schema": "x"}, {**held, "more": 1}, {**held, "scores": [{}]}, []):
        with pytest.raises(RegistryError, match="report"):
            Report.from_json(json.dumps(broken))


def test_scores_are_in_the_metrics_own_direction_with_their_bounds(report: Report) -> None:
    accuracy, bits = report.scores
    assert [(one.role, one.model) for one in accuracy.scores] == [
        ("base", "base"), ("parent", "tagger"), ("merged", "merged"),
    ]  # fmt: skip
    for row in (accuracy, bits):
        for one in row.scores:
            assert one.lower is not None
            assert one.upper is not None
            assert one.lower < one.value < one.upper
    assert accuracy.scores[2].value == 0.8
    assert bits.scores[0].value > bits.scores[2].value > 0
    drawn = lanes(bits).whiskers[2]
    assert drawn.low is not None
    assert 0 < drawn.low < drawn.at < (drawn.high or 0) < 100


def test_a_question_is_drawn_with_better_to_the_right(report: Report) -> None:
    floor, ceiling, margin = (forest(result) for result in report.decision.results)
    for one in (floor, ceiling, margin):
        assert one.verdict == "PASS"
        assert one.threshold < (one.whisker.low or 0) <= one.whisker.at <= (one.whisker.high or 0)
    assert asked(report.decision.results[1]) == "text bits_per_byte: at most 2"
    assert found(report.decision.results[1]).endswith("needs at most 2")
    assert found(report.decision.results[1])[0] != "\u2212"
    assert asked(report.decision.results[2]) == "app acc beside tagger: owner tagger, margin 0.2"


def test_winners_and_shares(report: Report) -> None:
    grid, outside = winner_grids(report.standings, ["tagger", "indonesian"])
    assert grid.columns == ("q_proj", "k_proj", "down_proj", "input_layernorm")
    assert grid.rows[0][1][0] is not None
    assert (grid.rows[0][1][0].text, grid.rows[0][1][0].owner) == ("B 55%", 1)
    assert outside.columns == ("model.embed_tokens",)
    even = [dataclasses.replace(one, share_won=0.5) for one in report.standings]
    assert {cell.text for _, row in winner_grids(even, ["tagger", "indonesian"])[0].rows for cell in row if cell} == {
        "="
    }
    label, shares = shares_by_layer(report.standings)[-1]
    assert label == "whole network"
    assert [(one.model, round(one.mean_score, 6)) for one in shares] == [("tagger", 0.71), ("indonesian", 0.75)]
    assert [row[0] for row in shares_by_layer(report.standings)] == ["0", "1", "outside the layers", "whole network"]


def test_generations_are_drawn_to_the_left(report: Report) -> None:
    plain = picture(report)
    older = Ancestor("older", "base", "1" * 64, None, None, (Ancestor("oldest", "model", "3" * 64),))
    entry = dataclasses.replace(report.lineage.inputs[1], made_from=(older,))
    made = dataclasses.replace(report.lineage, inputs=(report.lineage.inputs[0], entry))
    deep = picture(dataclasses.replace(report, lineage=made))
    assert (len(plain.nodes), len(plain.curves)) == (4, 3)
    assert (len(deep.nodes), len(deep.curves)) == (6, 5)
    assert deep.width > plain.width
    assert min(node.x for node in deep.nodes if node.kind == "ancestor") == 2
    corners = [(node.x, node.y) for node in deep.nodes]
    assert len(set(corners)) == len(corners)


def test_the_chart_is_an_image_of_its_own(report: Report) -> None:
    root = ElementTree.fromstring(scores_picture(report))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.attrib["height"]) > 100


def test_a_description_fits_the_registry_whatever_is_in_it(report: Report) -> None:
    result = dataclasses.replace(report.decision.results[0], clause="parents x: " + "long " * 100)
    many = dataclasses.replace(report.decision, results=(result,) * 60, verdict=Verdict.PASS)
    text = describe(dataclasses.replace(report, decision=many), "links")
    assert len(text) <= LIMIT
    assert text.startswith("✓ PASS: ")
    assert "see the report" in text


def test_the_champion_is_named_or_said_to_be_missing(report: Report) -> None:
    none = dataclasses.replace(report, decision=dataclasses.replace(report.decision, against=NO_CHAMPION))
    assert "there was none yet" in Page(render(none)).text
    some = dataclasses.replace(report, decision=dataclasses.replace(report.decision, against="9" * 64))
    assert "9" * 12 in Page(render(some)).text
    assert "champion 999999999999" in describe(some)


def test_scorecards_of_other_runs_are_left_out() -> None:
    made = report_of()
    stale = card("tagger", 10, 1.4, "c" * 64)
    again = build("quickstart", 3, made.decision, made.lineage, [stale])
    assert again.scores == ()
    assert "No scorecard" in Page(render(again)).text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0%"), (1.0, "100%"), (0.123, "12%"), (0.0345, "3.5%"), (1e-6, "0.0001%"), (None, "∞")]
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser_without_a_network(width: int, scheme: str, browser: Any, tmp_path: Path) -> None:
    drawn = report_of(30, layers=24)
    (tmp_path / "page.html").write_text(render(dataclasses.replace(drawn, override=Override("a", "b", "2031"))))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked_for: list[str] = []
    context.route(
        lambda url: not url.startswith("file:"), lambda route: (asked_for.append(route.request.url), route.abort())
    )
    context.set_offline(True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("h1").inner_text() == "quickstart version 3"
    assert page.locator("h2").all_inner_texts()[:2] == ["The gate: may it be promoted?", "Scores"]
    assert page.locator(".banner .word").is_visible()
    assert page.evaluate(CONTRAST) == []
    context.close()
    assert (asked_for, said) == ([], [])


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => { const v = c[i] / 255;
    return sum + w * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return rgb('white'); };
  return [...document.querySelectorAll('p, td, th, li, dt, dd, h1, h2, h3, a, code, caption span, .word, .key')]
    .filter(e => e.innerText && e.checkVisibility()).map(e => { const a = light(rgb(getComputedStyle(e).color)),
      b = light(behind(e)); return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
        e.className, e.innerText.slice(0, 40)]; })
    .filter(([ratio]) => ratio < 4.5).slice(0, 5);
}"""
