"""A merge into a storage: every file sent as soon as it is whole, the model published by one small object."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from widen.companions import write_companions
from widen.digests import DigestCache, digest_of, fingerprint_of, hash_file
from widen.dispatched import Workers, together
from widen.engine import Engine
from widen.inputs import describe_inputs
from widen.manifest import Manifest, MergedTensor, Recipe, ReuseRecord, merge_key
from widen.output import Written, with_index
from widen.plan import MergePlan, TensorPlan
from widen.remote.cache import RemoteCache
from widen.remote.claim import claimed
from widen.remote.current import PREFIX, Current
from widen.remote.outbox import Sent, copy_file, read_records
from widen.remote.publish import Published, is_intact, publish
from widen.remote.room import room
from widen.remote.store import Store
from widen.reuse import DAMAGED, FIRST_RUN, INTERRUPTED, Reuse, find, key_of
from widen.staging import HEADROOM_BYTES
from widen.units import plan_digest
from widen.version import ENGINE

NOT_KEPT = "in a file of the earlier output with tensors that changed"


@dataclass(frozen=True)
class Target:
    """Where a merge goes: the output, what counted there when it began, and the folder of this machine that its files
    pass through.
    """

    store: Store
    published: Published | None
    cache: RemoteCache

    @property
    def seen(self) -> Current | None:
        """What counted there."""
        return self.published.current if self.published else None


def merge_into(
    plan: MergePlan, engine: Engine, by: Workers, target: Target, recipe: Recipe, files: DigestCache | None
) -> Manifest:
    """Merge and publish; what is published and the same already stays as it is. Raises as `widen.merge` does."""
    engine.contents.watch((*plan.inputs, *plan.checkpoints))
    if files is not None:
        by.hash_files(plan, files)
    if target.published is not None:
        by.name_inputs(plan)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        previous = target.published.manifest
        if previous.key == merge_key(ENGINE, plan.settings.content, inputs) and is_intact(
            target.store, target.published
        ):
            engine.progress.note(f"merge: {target.store} is unchanged, verified by the storage's own tags")
            return previous
    folder = folder_of(plan, recipe, target.seen, is_audited=files is not None)
    inside = target.store.within(folder)
    with claimed(inside):
        written, notes = _made(plan, engine, by, target, inside)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        engine.contents.require_unchanged()
    notes += [f"tied: {name} repeats another tensor and was not merged" for name in sorted(plan.tied)]
    manifest = Manifest(
        ENGINE, recipe, plan.settings.method, plan.settings.content, inputs, written.tensors, written.files, notes,
        written.reuse,
    )  # fmt: skip
    publish(target.store, folder, manifest, target.seen, engine.progress)
    return manifest


def folder_of(plan: MergePlan, recipe: Recipe, seen: Current | None, *, is_audited: bool) -> str:
    """The folder of an output that this merge is made in: the same for a run that goes on with a killed one's work.

    Named by all that decides what is in it, and by what it takes the place of: a folder that was published is never
    written to again.
    """
    inputs = [
        [
            one.name,
            {name: asdict(fingerprint_of(one.file(name))) for name in one.shards},
            {name: hash_file(one.folder / name).sha256 for name in one.companions},
        ]
        for one in plan.inputs
    ]
    merge = {"recipe": asdict(recipe), "engine": ENGINE, "plan": plan_digest(plan), "inputs": inputs}
    after = seen.manifest if seen else None
    return PREFIX + digest_of({**merge, "audited": is_audited, "after": after})[:32]


def _made(plan: MergePlan, engine: Engine, by: Workers, target: Target, inside: Store) -> tuple[Written, list[str]]:
    """All files of the merge in `inside`: what a killed run left there, what earlier ones have, and the rest."""
    kept = _kept(plan, engine, by, target, inside)
    rest = {name: part for name, part in plan.files.items() if name not in kept}
    reasons = _reasons(plan, engine, target, rest, is_resumed=bool(kept))
    made = by.send(plan, Reuse(reasons=reasons), rest, inside)
    written = together(plan, [*(_written(plan, name, sent) for name, sent in kept.items()), *made])
    with room(target.cache.scratch, HEADROOM_BYTES, engine.progress) as scratch:
        companions, notes = write_companions(plan, scratch)
        whole = with_index(plan, scratch, written)
        for name in sorted({*companions, *whole.files} - {*written.files}):
            inside.write(name, (scratch / name).read_bytes())
    return replace(whole, files={**companions, **whole.files}), notes


def _kept(plan: MergePlan, engine: Engine, by: Workers, target: Target, inside: Store) -> dict[str, Sent]:
    """The files that need not be made again, by name: each tensor in them a function of the same things, in order."""
    found = read_records(inside)
    earlier = [target.store.within(name) for name in _folders(target.seen)]
    others = [(folder, read_records(folder)) for folder in earlier]
    if not found and not any(records for _, records in others):
        return {}
    by.name_inputs(plan)
    kept: dict[str, Sent] = {}
    for name, part in plan.files.items():
        keys = [(one.name, key_of(plan, one, engine.contents)) for one in part]
        if name in found and list(found[name].keys.items()) == keys:
            kept[name] = found[name]
            continue
        for folder, records in others:
            sent = records.get(name)
            if sent is not None and list(sent.keys.items()) == keys and (copy := copy_file(inside, folder, name, sent)):
                kept[name] = copy
                break
    return kept


def _folders(seen: Current | None) -> list[str]:
    return [] if seen is None else [name for name in (seen.folder, seen.before) if name is not None]


def _reasons(
    plan: MergePlan, engine: Engine, target: Target, rest: Mapping[str, Sequence[TensorPlan]], *, is_resumed: bool
) -> dict[str, str]:
    """Why each tensor of `rest` is computed."""
    if target.published is None:
        reason = INTERRUPTED if is_resumed else FIRST_RUN
        return {one.name: reason for part in rest.values() for one in part}
    previous = target.published.manifest
    told = find(plan, engine.contents, previous, target.cache.folder / "no such folder", ()).reasons
    same = {name for name, reason in told.items() if reason == DAMAGED}
    return {one.name: NOT_KEPT if one.name in same else told[one.name] for part in rest.values() for one in part}


def _written(plan: MergePlan, name: str, sent: Sent) -> Written:
    """A file that is there already, as if it had been written now."""
    tensors = {
        one.name: MergedTensor(
            one.out_type.name, list(one.shape), one.kind, name, sent.sha256[one.name],
            "" if plan.is_direct else sent.keys[one.name],
        )
        for one in plan.files[name]
    }  # fmt: skip
    return Written(tensors, {name: sent.digest}, ReuseRecord(len(tensors)))
