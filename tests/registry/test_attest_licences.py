"""Licences: what the rule makes of a merge's inputs, and what a checkpoint's own files state."""

import logging
from pathlib import Path

import pytest

from registry.attest.licences import NO_DERIVATIVES, PERMISSIVE, check
from registry.attest.stated import stated_licence

ROOT = Path(__file__).parents[2]


def of(*licences: str | None) -> list[tuple[str, str | None]]:
    return [(f"m{number}", licence) for number, licence in enumerate(licences)]


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("apache-2.0", "apache-2.0", "apache-2.0"), "apache-2.0"),
        (("Apache-2.0", " apache-2.0 "), "apache-2.0"),
        (("mit", "apache-2.0", "mit"), "apache-2.0 AND mit"),
        (("llama2", "llama2", "apache-2.0"), "llama2"),
        (("apache-2.0", "cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (("gpl-3.0", "apache-2.0", "mit"), "gpl-3.0"),
        (("gpl-2.0", "mit"), "gpl-2.0"),
        (("tongyi-qianwen", "tongyi-qianwen"), "tongyi-qianwen"),
        (("tongyi-qianwen", "apache-2.0"), "tongyi-qianwen"),
    ],
)
def test_a_licence_that_follows(licences: tuple[str, ...], expected: str) -> None:
    found = check(of(*licences))
    assert (found.expression, found.warning) == (expected, None)


@pytest.mark.parametrize(
    ("licences", "told"),
    [
        (("apache-2.0", None), "that of m1 is not known; look at m0 (apache-2.0), m1 (not stated)"),
        (("other", "other"), "that of m0, m1 is not known"),
        (("", "mit"), "that of m0 is not known"),
        ((), "that of every input is not known"),
        (("llama2", "llama3"), "llama2 and llama3 each want the whole of it; look at m0 (llama2), m1 (llama3)"),
        (("gpl-3.0", "cc-by-nc-4.0", "mit"), "cc-by-nc-4.0 and gpl-3.0 each want the whole of it"),
        (("gpl-2.0", "apache-2.0"), "gpl-2.0 and apache-2.0 exclude each other"),
        (("cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0"), "cc-by-nc-nd-4.0 allows no derivatives, and a merge is one"),
    ],
)
def test_no_licence_is_made_up(licences: tuple[str | None, ...], told: str) -> None:
    found = check(of(*licences))
    assert (found.licences, found.expression) == ((), None)
    assert found.warning is not None
    assert found.warning.startswith("no single licence for the merge: ")
    assert told in found.warning


def test_the_order_of_inputs_does_not_matter_and_all_are_recorded() -> None:
    one, other = check(of("mit", "llama2", "apache-2.0")), check(of("apache-2.0", "mit", "llama2"))
    assert one.licences == other.licences == ("llama2",)
    assert one.inputs == (("m0", "mit"), ("m1", "llama2"), ("m2", "apache-2.0"))


def test_the_tables_are_spdx_s_or_hugging_face_s_names() -> None:
    from cyclonedx.spdx import fixup_id

    assert {name for name in PERMISSIVE | NO_DERIVATIVES if fixup_id(name) is None} == {"bsd"}


CARD = "---\nlanguage: en\n{}\n---\n\n# A model\n\nlicense: gpl-3.0\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": CARD.format("license: Apache-2.0")}, "apache-2.0"),
        ({"README.md": "\ufeff" + CARD.format("license: mit")}, "mit"),
        ({"README.md": CARD.format("license: mit").replace("\n", "\r\n")}, "mit"),
        ({"README.md": CARD.format("license: other\nlicense_name: tongyi-qianwen")}, "tongyi-qianwen"),
        ({"README.md": CARD.format("license: other")}, "other"),
        ({"README.md": CARD.format("license: [mit]")}, "mit"),
        ({"README.md": CARD.format("license: [mit, gpl-3.0]")}, None),
        ({"README.md": CARD.format("license: {a: b}")}, None),
        ({"README.md": CARD.format("license: 'x\n\n  <b>|'")}, None),
        ({"README.md": CARD.format("tags: [a")}, None),
        ({"README.md": "---\njust text\n---\n"}, None),
        ({"README.md": CARD.format("license: mit"), "config.json": '{"license": "gpl-3.0"}'}, "mit"),
        ({"config.json": '{"license": "MIT"}'}, "mit"),
        ({"config.json": "[1]"}, None),
        ({"config.json": "{"}, None),
        ({"LICENSE": (ROOT / "LICENSE").read_text()}, "apache-2.0"),
        ({"LICENSE.txt": "LLAMA 2 COMMUNITY LICENSE AGREEMENT\nLlama 2 Version Release Date: July 18, 2023"}, "llama2"),
        ({"LICENSE": "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"}, "llama3"),
        ({"LICENSE": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT"}, "llama3.1"),
        (
            {
                "COPYING": "MIT License\n\nPermission is hereby granted,\nfree of charge, to any person ...\n"
                'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY'
            },
            "mit",
        ),
        ({"LICENSE": "All rights reserved."}, None),
        ({"LICENSE": (ROOT / "LICENSE").read_text() + "\nLLAMA 2 COMMUNITY LICENSE AGREEMENT"}, None),
        ({}, None),
    ],
)
def test_what_a_checkpoint_states(files: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert stated_licence(tmp_path) == expected


def test_unreadable_metadata_states_nothing_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_text(CARD.format("tags: [a"))
    with caplog.at_level(logging.WARNING):
        assert stated_licence(tmp_path) is None
    assert "its metadata is no YAML" in caplog.text
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert stated_licence(tmp_path) is None
