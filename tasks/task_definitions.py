"""lm-eval's task files, read without lm-eval: which tasks a name stands for, and what each is defined by.

Nothing in them is run here. The library takes seconds to import and its index of 14,000 files seconds more; whether
scores are at hand is told without either. `tasks.harness` builds the tasks from what is read here, so that both mean
the same ones.
"""

import difflib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.task_data import CODE, Function, data_files, folder_digest
from widen.errors import EnvironmentFault, RecipeError
from widen.staging import write_atomically

GROUP_KEYS = frozenset({"group", "group_alias", "task", "aggregate_metric_list", "metadata"})
STRUCTURE = frozenset({"tag", "group", "task_list"})
SKIPPED = frozenset({"__pycache__", ".ipynb_checkpoints"})
INDEX = "lm-eval-tasks.json"


@dataclass(frozen=True)
class Definition:
    """One task: its configuration with includes and its group's overrides applied.

    `folder` is the recipe's folder of task files, or None for lm-eval's own; `beside` is where its YAML lies, from
    which the paths in it are meant.
    """

    task: str
    config: Mapping[str, Any]
    folder: Path | None
    beside: Path

    def digest(self) -> str:
        """sha256 over what defines the task: its resolved configuration and the content of its data files.

        Comments and other tasks' files are not in it. A task with Python code of its own, or data that cannot be told
        from its YAML, goes by the whole folder. Raises RecipeError for a data file that is not there.
        """
        functions = list(_functions(self.config))
        held = [
            [name, _content(path)]
            for name, path in sorted(data_files(self.task, self.config, self.beside, self.folder))
        ]
        text: list[Any] = [_plain(self.config), held]
        if self.folder is not None and (functions or self._reaches_out()):
            text.append(folder_digest(self.folder))
        elif functions:
            text += [folder_digest(folder) for folder in sorted({one.folder for one in functions})]
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()

    def _reaches_out(self) -> bool:
        path, keywords = str(self.config.get("dataset_path")), self.config.get("dataset_kwargs") or {}
        return "data_dir" in keywords or (self.beside / path).exists() or bool(CODE & self.config.keys())


@dataclass(frozen=True)
class _Entry:
    """A name in the index: of a task or a group (with its file), or a tag (with its tasks)."""

    kind: str
    path: str | None = None
    tasks: tuple[str, ...] = ()


_Index = dict[str, _Entry]


def definitions(names: Sequence[str], folder: Path | None, cache: Path | None) -> tuple[Definition, ...]:
    """The tasks that the named tasks, groups and tags stand for, in the order asked.

    Names are those of `folder`; what it does not define is looked for among lm-eval's own, whose index is kept in
    `cache`. Raises RecipeError for a name that stands for nothing, naming the nearest, and for what cannot be read.
    """
    if folder is not None and not folder.is_dir():
        raise RecipeError(f"evaluate.include_path: expected a folder of task YAML, found nothing at {folder}")
    reader = _Reader(folder, cache)
    found: dict[str, Definition] = {}
    for name in dict.fromkeys(names):
        for one in reader.leaves(name, {}, ()):
            if found.setdefault(one.task, one) != one:
                raise RecipeError(
                    f"evaluate.tasks: {name} brings the task {one.task} again, set otherwise; name it once"
                )
    return tuple(found.values())


class _Reader:
    """Names to definitions, on one folder and, where that is not enough, lm-eval's own."""

    def __init__(self, folder: Path | None, cache: Path | None) -> None:
        self.folder, self.cache = folder, cache
        self.broken: list[str] = []
        self.parsed: dict[Path, Any] = {}
        self.own: _Index = {} if folder is None else _scan(folder, self.broken, self.parsed)

    @functools.cached_property
    def theirs(self) -> _Index:
        """lm-eval's own index."""
        return _harness_index(self.cache)

    def _may_be_theirs(self, name: str) -> bool:
        """Whether the index is worth its seconds: a name that stands in none of its files is not in it."""
        return "theirs" in vars(self) or any(
            name.encode() in one.read_bytes() for one in _harness_root().rglob("*.yaml")
        )

    def entry(self, name: str) -> _Entry | None:
        return self.own.get(name) or (self.theirs.get(name) if self._may_be_theirs(name) else None)

    def leaves(self, name: str, overrides: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[Definition]:
        entry = self.entry(name)
        if entry is None:
            raise RecipeError(self._unknown(name, above))
        if name in above:
            raise RecipeError(f"evaluate.tasks: the group {name} holds itself, by {' > '.join((*above, name))}")
        if entry.kind == "tag":
            for task in sorted(entry.tasks):
                yield from self.leaves(task, overrides, (*above, name))
            return
        path = Path(str(entry.path))
        try:
            config = _read(path, self.parsed)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RecipeError(f"task {name}: cannot read {path}: {error}") from error
        if entry.kind == "group":
            yield from self._members(name, config, overrides, above, path.parent)
        else:
            yield self._leaf(name, {**config, **overrides}, path.parent)

    def _leaf(self, name: str, config: Mapping[str, Any], beside: Path) -> Definition:
        plain = {key: value for key, value in config.items() if key not in STRUCTURE} | {"task": name}
        own = self.folder is not None and beside.resolve().is_relative_to(self.folder.resolve())
        return Definition(name, plain, self.folder if own else None, beside)

    def _members(
        self, group: str, config: Mapping[str, Any], overrides: Mapping[str, Any], above: tuple[str, ...], beside: Path
    ) -> Iterator[Definition]:
        """A group's members, each with the group's own overrides, which those from above go before."""
        settings = {key: value for key, value in config.items() if key not in GROUP_KEYS | STRUCTURE} | dict(overrides)
        listed = config.get("task") or ()
        above = (*above, group)
        for item in [listed] if isinstance(listed, str) else listed:
            if isinstance(item, str):
                yield from self.leaves(item, settings, above)
                continue
            kind = next((kind for kind in ("group", "task") if isinstance(item, dict) and kind in item), None)
            if kind is None:
                raise RecipeError(
                    f"group {group}: expected a task's name or a mapping with `task` or `group`, found {item!r}"
                )
            name, rest = str(item[kind]), {key: value for key, value in item.items() if key not in GROUP_KEYS}
            if self.entry(name) is not None:
                yield from self.leaves(name, settings | rest, above)
            elif kind == "group":
                yield from self._members(f"{group}::{name}", item, settings, above, beside)
            else:
                yield self._leaf(f"{group}::{name}", settings | rest, beside)

    def _unknown(self, name: str, above: tuple[str, ...]) -> str:
        near = difflib.get_close_matches(name, self.own, n=1) or difflib.get_close_matches(name, self.theirs, n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(self.own)[:10]) or 'lm-eval ls tasks'}"
        )
        place = "lm-eval" if self.folder is None else f"{self.folder}, nor of lm-eval"
        through = f" (named by {above[-1]})" if above else ""
        unread = f"; files there that cannot be read: {'; '.join(self.broken)}" if self.broken else ""
        return f"evaluate.tasks: {name!r}{through} is not a task of {place}; {hint}{unread}"


# ---------------------------------------------------------------- the index


def _scan(root: Path, broken: list[str], parsed: dict[Path, Any]) -> _Index:
    """Every task, group and tag defined below `root`, as lm-eval finds them: of two with one name, the first file's."""
    index: _Index = {}
    tags: dict[str, set[str]] = {}
    for path in sorted(root.glob("**/*.yaml"), key=lambda one: one.as_posix()):
        if SKIPPED & set(path.parts):
            continue
        try:
            config = _read(path, parsed)
        except (OSError, ValueError, yaml.YAMLError) as error:
            broken.append(f"{path.name} ({' '.join(str(error).split())})")
            continue
        kind = "task" if "class" in config else "group" if "group" in config else "task"
        name = config.get(kind)
        if not isinstance(name, str) or name in index:
            continue
        index[name] = _Entry(kind, str(path))
        told = config.get("tag") if kind == "task" else None
        for tag in [told] if isinstance(told, str) else told or ():
            tags.setdefault(tag, set()).add(name)
    return {tag: _Entry("tag", tasks=tuple(sorted(tasks))) for tag, tasks in tags.items()} | index


def _harness_root() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise EnvironmentFault("lm-eval is not installed; install the packages of requirements.lock")
    return Path(spec.origin).parent / "tasks"


def _harness_index(cache: Path | None) -> _Index:
    """The index of lm-eval's own task files, kept until one of their folders changes. Reading them takes seconds."""
    root = _harness_root()
    folders = sorted((path, Path(path).stat().st_mtime_ns) for path, _, _ in os.walk(root))
    stamp = hashlib.sha256(json.dumps([importlib.metadata.version("lm_eval"), folders]).encode()).hexdigest()
    kept = cache / INDEX if cache else None
    try:
        held = json.loads(kept.read_bytes()) if kept else {}
        if held.get("stamp") == stamp:
            return {name: _Entry(kind, path, tuple(tasks)) for name, (kind, path, tasks) in held["index"].items()}
    except (OSError, ValueError, TypeError, AttributeError):
        pass  # absent or damaged: it is read anew
    index = _scan_once(root, stamp)
    if kept:
        rows = {name: (one.kind, one.path, one.tasks) for name, one in index.items()}
        write_atomically(kept, json.dumps({"stamp": stamp, "index": rows}).encode())
    return index


@functools.cache
def _scan_once(root: Path, _stamp: str) -> _Index:
    return _scan(root, [], {})


# ---------------------------------------------------------------- one file


def _read(path: Path, parsed: dict[Path, Any], seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task file with its includes; its own keys win over theirs, as in lm-eval. `parsed` holds files read before.

    Raises OSError, ValueError or yaml.YAMLError for what cannot be read.
    """
    path = path.resolve()
    if path in seen:
        raise ValueError(f"it includes itself, by {path.name}")
    if path not in parsed:
        parsed[path] = yaml.load(path.read_bytes(), Loader=_loader(path.parent))  # noqa: S506 - safe, with one more tag
    if not isinstance(parsed[path], dict):
        raise ValueError("expected a mapping")
    config = dict(parsed[path])
    included = config.pop("include", ())
    merged: dict[str, Any] = {}
    for one in included if isinstance(included, list) else [included] if included else ():
        part = _read(path.parent / str(one), parsed, (*seen, path))
        part.pop("task_list", None)
        merged.update(part)
    return merged | config


@functools.cache
def _loader(folder: Path) -> Any:
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """YAML's safe loader, which leaves `!function` uncalled."""

    Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node), folder))
    return Loader


def _plain(value: Any) -> Any:
    """What YAML may hold, as JSON can: any key as text, a date or a function as its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _functions(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _functions(one)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
