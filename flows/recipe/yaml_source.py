"""A YAML file as plain values with the line of every key; the only place that reads a recipe's YAML.

Stricter than YAML: one document, one mapping, text keys, no key twice, no tags beyond the plain ones, and bounds on
size, depth and what aliases expand to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.recipe.faults import Fault, Where, dotted, refusal, show
from flows.recipe.secrets import leaks
from widen.errors import RecipeError

MAX_BYTES = 128 * 1024
MAX_DEPTH = 24
MAX_NODES = 10_000

TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = frozenset(TAG + name for name in ("null", "bool", "int", "float"))
# A date or a lone `=` is text here: `rev: 2024-02-01` names a tag.
TEXT_TAGS = frozenset(TAG + name for name in ("str", "timestamp", "value", "merge"))
MERGE_TAG = TAG + "merge"


@dataclass(frozen=True)
class Document:
    """A recipe file as read: its raw text, its values, where each stands, and what is wrong with the YAML itself."""

    path: Path
    text: str
    data: dict[str, Any]
    lines: Mapping[Where, int]
    faults: tuple[Fault, ...]

    def line_of(self, where: Where) -> int:
        """The line of a key, or of the nearest mapping around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        RecipeError: the file is missing, too large, not UTF-8, not one YAML mapping, or holds a credential.
    """
    text = _text(path)
    found = leaks(text)
    if found:
        raise refusal(path, found, lambda _: 1)
    node = _compose(path, text)
    if not isinstance(node, yaml.MappingNode):
        kind = "an empty file" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "one value"
        raise RecipeError(f"{path}:1: expected a mapping (`name: ...`, `merge: ...`), found {kind}")
    reader = _Reader(path)
    data = reader.value(node, ())
    if reader.broken:
        raise refusal(path, reader.faults, lambda where: reader.lines.get(where, 1))
    return Document(path, text, data, reader.lines, tuple(reader.faults))


def plain(path: Path) -> Any:
    """The values of a YAML file of this project's own, without lines and faults."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if path.is_file() and size > MAX_BYTES:
            raise RecipeError(f"{path}: expected a recipe of at most {MAX_BYTES:,} bytes, found {size:,}")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: expected a recipe file, found none that can be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at {error.start}"
        ) from error


def _compose(path: Path, text: str) -> yaml.Node | None:
    """The node tree of the one document in `text`; nesting is bounded before the recursive composer sees it."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecipeError(f"{path}:{_line(event.start_mark)}: nested deeper than {MAX_DEPTH} levels")
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return node
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark or error.context_mark)
        several = error.problem == "but found another document"
        advice = (
            "; a file is one recipe: write one for each merge of a chain, the later ones with the earlier as a source"
        )
        told = f"not valid YAML: {error.problem or error.context}{advice if several else ''}"
        raise RecipeError(f"{path}:{line}: {told}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{path}:{line}: not valid YAML: a control character ({error.character:#06x})") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets chr() and int() speak for themselves: "\UFFFFFFFF", %YAML 1.<five thousand digits>.
        raise RecipeError(f"{path}:1: not valid YAML: {error}") from error


def _line(mark: Any) -> int:
    return mark.line + 1 if mark is not None else 1


class _Reader:
    """Turns nodes into values, and keeps each key's line and the faults met on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Where, int] = {}
        self.faults: list[Fault] = []
        self.broken = False
        self._nodes = 0
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, where: Where) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        if self._nodes > MAX_NODES or len(where) > MAX_DEPTH:
            raise RecipeError(
                f"{self.path}:{line}: {dotted(where)}: the aliases expand to too much; write the values out"
            )
        self.lines.setdefault(where, line)
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            return [self.value(item, (*where, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        values: dict[str, Any] = {}
        inherited = []
        for key_node, value_node in node.value:
            if key_node.tag == MERGE_TAG:
                inherited.append(value_node)
                continue
            key, line = self._scalar(key_node, where), key_node.start_mark.line + 1
            if not isinstance(key, str):
                self._break(where, f"expected keys that are text, found {show(str(key_node.value))}; quote it", line)
            elif key in values:
                first = self.lines[(*where, key)]
                self.faults.append(Fault((*where, key), f"the key stands twice, first on line {first}; keep one", line))
            else:
                self.lines.setdefault((*where, key), line)
                values[key] = self.value(value_node, (*where, key))
        for value_node in inherited:
            self._inherit(values, value_node, where)
        return values

    def _inherit(self, values: dict[str, Any], node: yaml.Node, where: Where) -> None:
        """YAML's `<<`: keys of another mapping, or of a list of them, that this mapping does not give itself."""
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(one, yaml.MappingNode):
                values.update((key, value) for key, value in self.value(one, where).items() if key not in values)
            else:
                self._break(where, "expected a mapping after `<<`", one.start_mark.line + 1)

    def _scalar(self, node: yaml.Node, where: Where) -> Any:
        line = node.start_mark.line + 1
        if node.tag in TEXT_TAGS and isinstance(node.value, str):
            if any("\ud800" <= letter <= "\udfff" for letter in node.value):
                self._break(where, "the text holds half of a surrogate pair", line)
            return node.value
        if node.tag not in PLAIN_TAGS or not isinstance(node, yaml.ScalarNode):
            return self._break(where, f"expected plain YAML, found the tag {show(node.tag)}", line)
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            return self._break(where, f"expected {node.tag.removeprefix(TAG)}, found {show(node.value)}", line)

    def _break(self, where: Where, text: str, line: int) -> None:
        self.broken = True
        self.faults.append(Fault(where, text, line))
