"""The result as a table in Markdown."""

from collections.abc import Mapping
from typing import Any

HEAD = (
    "| what | seconds (least to most) | start | over the floor, whole process | without start | beside a first merge "
    "| CPU seconds | peak anonymous memory |\n|---|---|---|---|---|---|---|---|"
)


def table(result: Mapping[str, Any]) -> str:
    """Machine and sizes, the table, and what was left out or measured apart."""
    floor = result["floor"]
    parts = f"read {floor['read']:.2f}, write {floor['write']:.2f}, fsync {floor['fsync']:.2f}"
    first = f"| byte floor ({parts}) | {floor['seconds']:.2f} | | 1.0 | 1.0 | | | |"
    absent = [f"{name}: {why}" for name, why in result["absent"].items()]
    rows = [_row(line) for line in result["entrants"].values()]
    apart = ["", f"kernels alone: {result['gpu'].rstrip()}"] if result["gpu"] else []
    return "\n".join([*headline(result), "", HEAD, first, *rows, *([""] if absent else []), *absent, *apart])


def headline(result: Mapping[str, Any]) -> list[str]:
    """What was merged, and where."""
    size, machine, versions = result["models"], result["machine"], result["versions"]
    names = ("python", "numba", "numpy", "torch", "transformers", "mergekit")
    told = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    share = f"{size['updated_tensors']} of {size['tensors']} tensors ({size['updated_share']:.1%} of the bytes)"
    moved = f"reads {size['input_bytes'] / 1e9:.3g} GB, writes {size['output_bytes'] / 1e9:.3g} GB"
    where = f"{machine['processors']} x {machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB"
    rounds = len(result["rounds"])
    return [
        f"{size['count']} models of {size['parameters'] / 1e9:.3g} billion parameters, bfloat16; {moved}.",
        f"An update changes {share} of one model. Medians over rounds: {rounds}. Device: {result['device']}.",
        f"{where}, {machine['file_system']}, {machine['kernel']}; {told}.",
    ]


def _row(line: Mapping[str, Any]) -> str:
    cells = [
        line["caption"],
        f"{line['seconds']:.2f} ({line['least']:.2f} to {line['most']:.2f})",
        f"{line['start']:.2f}",
        f"{line['over_floor']:.1f}",
        f"{line['over_floor_without_start']:.1f}",
        "" if line["over_first"] is None else f"{line['over_first']:.2f}",
        f"{line['cpu']:.1f}",
        f"{line['peak'] / 1e9:.2f} GB",
    ]
    return f"| {' | '.join(cells)} |"
