"""The validation's page: Great Expectations' Data Docs, made to stand alone.

As rendered they load styles, fonts, scripts and a logo from nine hosts. Here the results are kept, with a summary on
top and a stylesheet of their own; the page contacts no one and needs no script.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; --line: #d8dee4; --soft: #f6f8fa; --text: #1f2328; --dim: #59636e; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 2rem 4rem; color: var(--text); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: 6px solid; padding: .8rem 1.2rem; background: var(--soft); border-radius: 4px; }
.verdict p { margin: .2rem 0 0; color: var(--dim); }
.passed { border-color: #1a7f37; } .failed { border-color: #cf222e; }
ol.told { padding-left: 2rem; } ol.told li { margin: .3rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0 1rem; width: 100%; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { background: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; }
th:first-child, td:first-child, .table-bordered th { white-space: nowrap; overflow-wrap: normal; }
.table-bordered { border: 1px solid var(--line); width: auto; }
.ge-section { margin-bottom: 1.2rem; } .alert { border-bottom: 2px solid var(--line); padding-bottom: .2rem; }
h5 { font-size: 1.05rem; margin: .4rem 0; } h6 { font-size: .95rem; margin: .4rem 0; }
.badge { background: #eaeef2; border-radius: 4px; padding: .05rem .35rem; font-size: .92em; }
.text-danger { color: #cf222e; } .text-success { color: #1a7f37; } .text-warning { color: #9a6700; }
i.fas { font-style: normal; font-weight: 700; } i.fa-check-circle::before { content: "\\2713"; }
i.fa-times::before { content: "\\2717"; } i.fa-exclamation-triangle::before { content: "!"; }
.collapse, a[data-toggle="collapse"] { display: none; }
"""
_DROPPED = re.compile(
    r"<script\b.*?</script\s*>|<link\b[^>]*>|<img\b[^>]*>|<style\b.*?</style\s*>|Data asset: None<br>",
    re.DOTALL | re.IGNORECASE,
)
_LINK_AWAY = re.compile(r'<a\b[^>]*href="(?!#)[^"]*"[^>]*>(.*?)</a>', re.DOTALL | re.IGNORECASE)
_MODEL_COLUMNS = ("changed", "relative_change", "lo", "hi", "direction_change")


def offline_page(
    rendered: str, refusals: Sequence[str], warnings: Sequence[str], networks: Sequence[Mapping[str, Any]]
) -> str:
    """A page without links, scripts or styles from elsewhere: verdict, figures by model, and the rendered results.

    rendered: the page of Great Expectations' validation results. networks: a row a model, as `delta_rows` gives them.
    """
    verdict = "failed" if refusals else "passed"
    counted = f"{len(networks)} model(s), {len(refusals)} refusal(s), {len(warnings)} warning(s)"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta name="viewport" content="width=device-width">\n<title>Validation {verdict}</title>',
            f"<style>{STYLE}</style>\n</head>\n<body>",
            f'<header class="verdict {verdict}"><h1>Validation {verdict}</h1><p>{counted}</p></header>',
            _list("Refusals", refusals),
            _list("Warnings", warnings),
            _table(networks),
            "<h2>Every expectation</h2>",
            _results(rendered),
            "</body>\n</html>\n",
        ]
    )


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
    return f'<h2>{title}</h2>\n<ol class="told">\n{items}</ol>' if lines else ""


def _table(networks: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th class="number">{name.replace("_", " ")}</th>' for name in _MODEL_COLUMNS)
    body = "".join(
        f"<tr><td>{escape(str(row['model']))}</td>"
        + "".join(f'<td class="number">{_figure(row[name])}</td>' for name in _MODEL_COLUMNS)
        + "</tr>\n"
        for row in networks
    )
    return f"<h2>Change from the base, over the network</h2>\n<table><tr><th>model</th>{heads}</tr>\n{body}</table>"


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _results(rendered: str) -> str:
    """The results' sections alone: not the head, the navigation bar, the sidebar or the footer with its web beacon."""
    start, end = rendered.index('<div id="section-1"'), rendered.rindex("<footer")
    sections = _LINK_AWAY.sub(r"\1", _DROPPED.sub("", rendered[start:end]))
    return f"<div><div><div>{sections}"  # the slice ends with the closing tags of the three around it
