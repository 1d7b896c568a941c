"""A merge on so many nodes, played through: bounds that no order beats, sums by hand, bytes that are conserved."""

from dataclasses import replace
from math import inf, prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.build import write_checkpoint
from widen.checkpoint import Checkpoint
from widen.errors import RecipeError
from widen.plan import cut, make_plan
from widen.settings import Settings
from widen.simulation.cluster import Cluster, Node, Rates, Storage, UnitShare
from widen.simulation.demand import START, lanes_used, stages_of
from widen.simulation.fluid import shares
from widen.simulation.forecast import forecast, useful
from widen.simulation.run import bounds, play
from widen.simulation.sizes import SIZES, parameters
from widen.simulation.work import MergeWork, Work, work_of, work_of_shapes

GB = 1_000_000_000
AMPLE = Storage(read=1e15, write=1e15, latency=0.0)
played = settings(deadline=None, max_examples=100)
sizes = st.integers(1, 40).map(lambda tenths: tenths * GB // 10)
rates = st.sampled_from([0.5e9, 1e9, 2.5e9, 8e9])


def unit(size: int, name: str = "file") -> Work:
    """A file of a merge of three models, in four equal tensors."""
    return Work(name, 3 * size, size, 4 * size, 0, (size // 4,) * 4, 1000)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    return Node(
        cpus=draw(st.sampled_from([2, 4, 16])), memory=64 * GB, read=draw(rates), write=draw(rates),
        network=draw(rates), scaling=draw(st.sampled_from([0.5, 0.8, 1.0])),
        speed=draw(st.sampled_from([0.3, 1.0, 2.0])),
    )  # fmt: skip


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    storage = Storage(draw(rates), draw(rates), draw(st.sampled_from([0.0, 0.05])))
    some = Rates(
        tensor=0.01, start=3.0, worker=draw(st.sampled_from([0.0, 2.0])), unit=draw(st.sampled_from([0.0, 0.5]))
    )
    return Cluster(
        tuple(draw(st.lists(nodes(), min_size=1, max_size=4))), UnitShare(2), storage, some,
        draw(st.sampled_from(["disk", "storage"])),
    )  # fmt: skip


merges = st.lists(sizes, min_size=1, max_size=12).map(lambda found: MergeWork(tuple(unit(size) for size in found)))


# Shares


@st.composite
def flows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, width, full = draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    number = st.floats(0.01, 100)
    places = [[draw(st.integers(0, full - 1)) for _ in range(width)] for _ in range(count)]
    uses = [[draw(st.one_of(st.just(0.0), number)) for _ in range(width)] for _ in range(count)]
    return np.array(places), np.array(uses), np.array([draw(number) for _ in range(full)])


@given(flows())
def test_shares_are_max_min_fair(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Nothing is overused, and whoever is held back is so by something full, where nobody has a larger share."""
    places, uses, capacities = found
    share, held = shares(places, uses, capacities)
    asked = np.zeros((len(uses), len(capacities)))
    for job, row in enumerate(places):
        for place, use in zip(row, uses[job], strict=True):
            asked[job, place] += use
    used = share @ asked
    assert (used <= capacities * (1 + 1e-9)).all()
    for job, place in enumerate(held):
        if place < 0:
            assert share[job] == 1.0
            continue
        assert asked[job, place] > 0
        assert used[place] == pytest.approx(capacities[place])
        assert share[job] >= max(share[other] for other in range(len(uses)) if asked[other, place] > 0) - 1e-9


def test_two_flows_share_one_wire_and_a_third_is_left_alone() -> None:
    share, held = shares(np.array([[0], [0], [1]]), np.array([[3.0], [1.0], [1.0]]), np.array([2.0, 5.0]))
    assert share.tolist() == [0.5, 0.5, 1.0]
    assert held.tolist() == [0, 0, -1]


# A merge played through


def test_one_worker_takes_the_sum_of_its_units_by_hand() -> None:
    """Reading 3 GB over a wire of 1 GB a second takes longer than all else; then each file's hash."""
    stages = dict.fromkeys(Rates().stages, 100e9) | {"hash files": 0.5e9}
    cluster = Cluster((Node(cpus=2, network=1e9),), UnitShare(2), AMPLE, Rates(stages, 0.0, 4.0, 1.5, 0.25))
    outcome = play(MergeWork((unit(GB), unit(2 * GB))), cluster)
    assert outcome.seconds == pytest.approx(4.0 + 1.5 + (0.25 + 3.0 + 2.0) + (0.25 + 6.0 + 4.0))
    assert (outcome.read, outcome.written, outcome.again) == (9 * GB, 3 * GB, 0)
    assert outcome.bound == "network in"
    assert outcome.waits[START] == pytest.approx(4.0 + 1.5)


def test_two_workers_share_the_storage_by_hand() -> None:
    """Six GB through 2 GB a second, where one alone would take as long for its three."""
    stages = dict.fromkeys(Rates().stages, 1e15)
    storage = Storage(read=2e9, write=1e15, latency=0.0)
    cluster = Cluster((Node(cpus=2, network=2e9),) * 2, UnitShare(2), storage, Rates(stages, 0.0, 0.0))
    assert play(MergeWork((unit(GB), unit(GB))), cluster).seconds == pytest.approx(3.0)
    assert play(MergeWork((unit(GB),)), cluster).seconds == pytest.approx(1.5)
    assert play(MergeWork((unit(GB), unit(GB))), cluster).bound == "storage read"


def test_requests_wait_for_the_storage_by_hand() -> None:
    """Of 100 parts 10 are under way: ten times the latency of one."""
    storage = Storage(1e15, 1e15, latency=0.2, part=10_000_000, requests=10)
    cluster = Cluster(
        (Node(network=1e15),), UnitShare(16), storage, Rates(dict.fromkeys(Rates().stages, 1e15), 0.0, 0.0)
    )
    work = Work("file", GB, 0, 0, 0, (1,))
    assert play(MergeWork((work,)), cluster).seconds == pytest.approx(2.0)
    assert play(MergeWork((work,)), cluster).bound == "storage latency"


def test_a_gpu_is_waited_for_by_hand() -> None:
    """Kernels that move 8 GB at 2 GB a second, beside 4 GB over PCIe at 4."""
    node = Node(cpus=4, gpus=2, network=1e15, pcie=4e9, kernel=2e9)
    stages = dict.fromkeys(Rates().stages, 1e15)
    cluster = Cluster((node,), UnitShare(2, 1), AMPLE, Rates(stages, 0.0, 0.0))
    outcome = play(MergeWork((unit(GB), unit(GB))), cluster)
    assert (outcome.seconds, outcome.workers, outcome.bound) == (pytest.approx(4.0), 2, "gpu")
    assert play(MergeWork((unit(GB),)), cluster).seconds == pytest.approx(4.0)


def test_two_threads_of_one_core_share_it_by_hand() -> None:
    """Two units of one processor second each, on two processors that together manage what one does."""
    stages = dict.fromkeys(Rates().stages, 1e15) | {"combine": 1e9}
    node = Node(cpus=2, network=1e15, scaling=0.5)
    cluster = Cluster((node,), UnitShare(1), AMPLE, Rates(stages, 0.0, 0.0))
    assert play(MergeWork((unit(GB),)), cluster).seconds == pytest.approx(1.0, rel=1e-4)
    assert play(MergeWork((unit(GB),) * 2), cluster).seconds == pytest.approx(2.0, rel=1e-4)


def test_a_process_alone_finishes_files_behind_its_lanes() -> None:
    """Each file's second of hashing lies behind the next file's stream; only the last one shows."""
    stages = dict.fromkeys(Rates().stages, 1e15) | {"combine": 0.5e9, "hash files": 1e9}
    alone = Cluster(
        (Node(cpus=3, scaling=1.0, network=1e15),), UnitShare(1), AMPLE, Rates(stages, 0.0, 0.0), alone=True
    )
    files = MergeWork((unit(GB),) * 5)
    assert play(files, alone).seconds == pytest.approx(5 * 2.0 + 1.0, rel=1e-4)
    assert play(files, replace(alone, alone=False, unit=UnitShare(1))).workers == 3


@played
@given(merges, clusters())
def test_never_faster_than_the_bounds_and_every_byte_once(merge: MergeWork, cluster: Cluster) -> None:
    outcome = play(merge, cluster)
    assert outcome.seconds >= bounds(merge, cluster) * (1 - 1e-9)
    assert (outcome.read, outcome.written, outcome.again) == (merge.read, merge.write, 0)
    spent = sum(outcome.waits.values())
    assert spent == pytest.approx(outcome.workers * outcome.seconds)


@played
@given(merges, clusters(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(
    merge: MergeWork, cluster: Cluster, shuffler: "np.random.Generator"
) -> None:
    shuffled = list(cluster.nodes)
    shuffler.shuffle(shuffled)
    assert play(merge, cluster) == play(merge, replace(cluster, nodes=tuple(shuffled)))


@played
@given(merges, nodes(), st.integers(1, 5), st.sampled_from(["cpus", "network", "speed", "nodes"]))
def test_more_of_anything_never_takes_longer(merge: MergeWork, node: Node, count: int, more: str) -> None:
    """One unit a node and a storage that gives all that is asked for: list scheduling of independent units."""
    before = Cluster((node,) * count, UnitShare(node.cpus), AMPLE, Rates(worker=1.0, unit=0.2))
    larger = node if more == "nodes" else replace(node, **{more: getattr(node, more) * 2})
    after = replace(before, nodes=(larger,) * (count + (more == "nodes")), unit=UnitShare(larger.cpus))
    assert play(merge, after).seconds <= play(merge, before).seconds * (1 + 1e-9)


@played
@given(merges, clusters(), st.sampled_from([2.0, 8.0]))
def test_all_of_it_twice_as_fast_takes_half_as_long(merge: MergeWork, cluster: Cluster, factor: float) -> None:
    now, storage = cluster.rates, cluster.storage
    faster = replace(
        cluster,
        nodes=tuple(replace(one, speed=one.speed * factor) for one in cluster.nodes),
        storage=replace(
            storage, read=storage.read * factor, write=storage.write * factor, latency=storage.latency / factor
        ),
        rates=replace(now, start=now.start / factor),
    )  # fmt: skip
    assert play(merge, faster).seconds == pytest.approx(play(merge, cluster).seconds / factor)


@played
@given(merges, nodes(), st.floats(0, 60))
def test_what_a_lost_node_was_at_is_done_again(merge: MergeWork, node: Node, lost: float) -> None:
    cluster = Cluster((replace(node, lost=lost), node, node), UnitShare(2), AMPLE, Rates(worker=1.0))
    outcome = play(merge, cluster)
    whole = play(merge, replace(cluster, nodes=(node, node)))
    assert outcome.read == merge.read + outcome.again
    assert 0 <= outcome.again <= merge.read
    assert lost < 2.0 or outcome.seconds >= bounds(merge, replace(cluster, nodes=(node,) * 3)) * (1 - 1e-9)
    assert lost > 2.0 or outcome.seconds == pytest.approx(whole.seconds)


def test_a_merge_without_a_node_left_is_told() -> None:
    with pytest.raises(RecipeError, match="every node is lost"):
        play(MergeWork((unit(GB),)), Cluster((Node(lost=2.5),), UnitShare(2), AMPLE))


def test_a_straggler_holds_up_the_end() -> None:
    """Eight equal units on four nodes, one of them ten times slower: it is given one, and all wait for that."""
    fast = Cluster((Node(cpus=2),) * 4, UnitShare(2), AMPLE, Rates(start=0.0))
    slow = replace(fast, nodes=(*fast.nodes[:3], replace(fast.nodes[0], speed=0.1)))
    merge = MergeWork((unit(GB),) * 8)
    one = play(MergeWork((unit(GB),)), replace(fast, nodes=fast.nodes[:1])).seconds
    assert play(merge, fast).seconds == pytest.approx(2 * one)
    assert play(merge, slow).seconds == pytest.approx(10 * one)
    assert play(merge, slow).waits["waiting for the last units"] > 0


def test_hashes_come_before_files_and_read_the_inputs_once_more() -> None:
    files, hashes = (unit(GB),), tuple(Work(f"hash {one}", GB, hashed=GB) for one in range(3))
    cluster = Cluster((Node(cpus=2),), UnitShare(2), AMPLE, Rates(start=0.0))
    apart = play(MergeWork(files), cluster).seconds + play(MergeWork((), hashes), cluster).seconds
    merge = MergeWork(files, hashes)
    assert play(merge, cluster).seconds == pytest.approx(apart)
    one = play(MergeWork((), hashes[:1]), cluster).seconds
    # The first node takes the third hash at 1 and ends it at 3; the second is free at 2, and no file is begun.
    two = replace(cluster, nodes=cluster.nodes * 2)
    uneven = tuple(Work("hash", size * GB, hashed=size * GB) for size in (1, 2, 2))
    expected = 3 * one + play(MergeWork(files), cluster).seconds
    assert play(MergeWork(files, uneven), two).seconds == pytest.approx(expected)
    (line,) = forecast(merge, cluster, [1])
    assert (line.read, line.twice) == (6 * GB, 3 * GB)


# What is asked of a cluster


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Node(network=0), "network must be"), (lambda: Node(scaling=1.5), "scaling"),
        (lambda: Node(price=-1), "price"), (lambda: Storage(latency=inf), "latency"),
        (lambda: Storage(requests=0), "requests"), (lambda: Cluster(()), "at least one node"),
        (lambda: Cluster((Node(),) * 2, output="disk"), "out of the other nodes' reach"),
        (lambda: Cluster((Node(),) * 2, alone=True), "cannot use 2 nodes"),
        (lambda: Cluster((Node(gpus=1),), UnitShare(2, 1)), "pcie=BYTES"),
        (lambda: Cluster((Node(cpus=2),), UnitShare(4)).workers, "does not fit"),
        (lambda: Cluster((Node(),), UnitShare(2, 1, None)).workers, "pcie=BYTES"),
        (lambda: UnitShare(2, 0, 65 * GB).slots(Node()), "65 GB of memory does not fit"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(wrong: object, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        wrong()  # type: ignore[operator]


def test_workers_are_spread_before_a_node_gets_a_second() -> None:
    cluster = Cluster((Node(cpus=4), Node(cpus=8, speed=0.5)), UnitShare(2))
    assert cluster.workers == [0, 1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("tensors", "lanes", "used"), [((4, 4, 4, 4), 2, 2.0), ((9, 1, 1, 1), 4, 12 / 9), ((), 3, 1.0)]
)
def test_a_lane_takes_a_whole_tensor(tensors: tuple[int, ...], lanes: int, used: float) -> None:
    assert lanes_used(tensors, lanes) == pytest.approx(used)


# The table


def line(count: int, seconds: float) -> SimpleNamespace:
    return SimpleNamespace(nodes=count, seconds=seconds)


def test_nodes_are_useful_while_any_larger_number_saves_enough() -> None:
    lines = [line(1, 100), line(2, 55), line(4, 54), line(8, 40), line(16, 39)]
    assert useful(lines, 0.1).nodes == 8  # type: ignore[arg-type]  # from 2 to 4 alone would not pay, to 8 does
    assert useful(lines, 0.5).nodes == 2  # type: ignore[arg-type]
    assert useful(list(reversed(lines)), 0.1).nodes == 8  # type: ignore[arg-type]
    assert useful(lines[:1], 0.1).nodes == 1  # type: ignore[arg-type]


def test_a_line_counts_bytes_memory_and_money() -> None:
    cluster = Cluster((Node(cpus=4, price=2.0),), UnitShare(2), AMPLE, Rates(start=0.0))
    merge = MergeWork((unit(GB), unit(GB)))
    one, two = forecast(merge, cluster, [1, 2])
    assert (one.network, one.twice, one.disk) == (8 * GB, 0, 0)
    assert one.memory == 2 * ((200 << 20) + 2 * 1000)
    assert two.cost == pytest.approx(2 * 2.0 * two.seconds / 3600)
    (copied,) = forecast(merge, replace(cluster, inputs="disk"), [1])
    assert (copied.network, copied.disk) == (2 * GB, 6 * GB)
    assert (one.least, one.workers, two.nodes) == (pytest.approx(bounds(merge, cluster)), 2, 2)


# Bytes of real models


def test_a_file_ends_where_the_next_tensor_would_exceed_it() -> None:
    assert cut("abcdef", [5, 1, 3, 4, 2, 3], 4) == [["a"], ["b", "c"], ["d"], ["e"], ["f"]]
    assert cut("", [], 4) == [[]]


def test_work_of_a_plan_is_what_its_files_hold(tmp_path: Path) -> None:
    from tests.build import changed, llama_weights

    weights = llama_weights()
    folders = [write_checkpoint(tmp_path / "base", weights), write_checkpoint(tmp_path / "a", changed(weights, 1, 0.1))]
    base, model = (Checkpoint.open(folder, folder.name) for folder in folders)
    plan = make_plan(base, [model], Settings(shard_bytes=10_000))
    found = work_of(plan, file_digests=True)
    whole = sum(tensor.nbytes for tensor in weights.values())
    assert (found.inputs, found.write, found.shared) == (2 * whole, whole, 0)
    assert sum(one.read for one in found.hashes) == sum((one / "model.safetensors").stat().st_size for one in folders)
    assert [one.name for one in found.files] == list(plan.files)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    same = work_of_shapes(shapes, 1, 2, 10_000)
    assert [replace(one, name="", lane=0) for one in found.files] == [
        replace(one, name="", lane=0) for one in same.files
    ]


@pytest.mark.parametrize(
    ("size", "published"),
    [("7b", 6_738_415_616), ("13b", 13_015_864_320), ("34b", 33_743_970_304), ("70b", 70_553_706_496),
     ("180b", 179_522_565_120), ("405b", 405_853_388_800)],
)  # fmt: skip
def test_sizes_have_the_published_number_of_parameters(size: str, published: int) -> None:
    assert parameters(SIZES[size].shapes()) == published


@pytest.mark.parametrize("size", ["70b", "180b"])
def test_shapes_are_what_transformers_builds(size: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig

    one = replace(SIZES[size], layers=2)
    if size == "180b":
        heads = one.hidden // 64
        config = FalconConfig(
            hidden_size=one.hidden, num_hidden_layers=2, num_attention_heads=heads, num_kv_heads=8, vocab_size=65_024,
            new_decoder_architecture=True, bias=False, tie_word_embeddings=False,
        )  # fmt: skip
    else:
        config = LlamaConfig(
            hidden_size=one.hidden, intermediate_size=one.inner, num_hidden_layers=2, num_attention_heads=64,
            num_key_value_heads=8, vocab_size=one.vocabulary, tie_word_embeddings=False,
        )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert one.shapes() == found


def test_units_of_a_size_are_cut_as_a_merge_cuts_them() -> None:
    found = work_of_shapes(SIZES["70b"].shapes(), 2, digests=True)
    assert max(one.write for one in found.files) <= 5 * GB
    assert found.write == 2 * 70_553_706_496
    assert found.read == 2 * found.inputs == 12 * 70_553_706_496
    assert all(prod(one.tensors[:1]) and sum(one.tensors) == one.write for one in found.files)


def test_a_unit_has_a_start_a_stream_and_a_hash() -> None:
    cluster = Cluster((Node(),), UnitShare(2), AMPLE, Rates(unit=0.5))
    assert [(one.read, one.written) for one in stages_of(unit(GB), cluster)] == [(0, 0), (3 * GB, GB), (0, 0)]
    disks = replace(cluster, inputs="disk", output="disk")
    assert [(one.read, one.written) for one in stages_of(unit(GB), disks)] == [(0, 0), (3 * GB, 0), (0, 0), (0, GB)]
