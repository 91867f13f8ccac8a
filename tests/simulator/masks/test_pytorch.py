"""Block maps against PyTorch's own create_block_mask."""

# ruff: noqa: E402 - nothing of this file can be imported without PyTorch

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
flex = pytest.importorskip("torch.nn.attention.flex_attention")

from attncast import Workload
from attncast.simulator.masks import Mask
from attncast.simulator.masks.readers import read_pt

from . import zoo

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
TENSORS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


def agree(block_map, reference):
    """Whether a BlockMap holds the tensors of a BlockMask."""
    written = block_map.to_block_mask()
    assert written["BLOCK_SIZE"] == reference.BLOCK_SIZE
    for name in TENSORS:
        expected = getattr(reference, name).numpy()
        np.testing.assert_array_equal(np.broadcast_to(written[name], expected.shape), expected, err_msg=name)
        assert written[name].dtype == expected.dtype


def test_the_zoo_has_at_least_the_twelve_masks_asked_for():
    asked = (
        "causal sliding_window prefix_lm document dilated natten_2d tiled_natten_2d alibi_window sink global_tokens union "
        "intersection causal_document blockwise swin strided"
    )
    assert set(asked.split()) <= set(zoo.MASKS)


@pytest.mark.parametrize("block", [(128, 128), (64, 32), (48, 80)])
@pytest.mark.parametrize(("q_len", "kv_len"), [(512, 512), (1000, 777), (1, 640), (129, 1024)])
@pytest.mark.parametrize("name", zoo.MASKS)
def test_agrees_with_create_block_mask(name, q_len, kv_len, block):
    function = zoo.MASKS[name]
    mask = Mask.from_function(function, name)
    batches, heads = 2, 3
    workload = Workload((q_len,), heads, 64, batch=batches, kv_grid=(kv_len,))
    got = mask.block_map(workload, *block)
    agree(got, flex.create_block_mask(function, batches, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=block))
    kept = int(flex.create_mask(function, batches, heads, q_len, kv_len, device="cpu").sum())
    assert got.pairs * batches * heads == kept * got.shape[0] * got.shape[1]
    work = mask.tile_work(workload, (block[0],), (block[1],))
    assert work.visited_total == sum(int(runs.totals()[0].sum()) for runs in got.maps)
    assert work.pairs == got.pairs


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("causal", (1, 1)),
        ("prefix_lm", (2, 1)),
        ("alibi_window", (1, 3)),
        ("batch_document", (2, 1)),
        ("document", (1, 1)),
    ],
)
def test_one_map_for_what_does_not_differ(name, shape):
    workload = Workload((512,), 3, 64, batch=2)
    assert Mask.from_function(zoo.MASKS[name]).block_map(workload).shape == shape


def test_only_unknown_operations_ask_the_function():
    opaque = {name for name, function in zoo.MASKS.items() if Mask.from_function(function).graph.opaque}
    assert opaque == {"unknown_operation", "unknown_reduction"}


FLOATS = torch.randn(64, generator=torch.Generator().manual_seed(1))

leaves = st.sampled_from(["q", "kv", "h"]) | st.floats(-8, 8, width=16) | st.integers(-9, 9)
trees = st.recursive(
    leaves,
    lambda children: (
        st.tuples(st.sampled_from(["add", "sub", "mul", "div", "minimum", "maximum"]), children, children)
        | st.tuples(st.sampled_from(["abs", "neg", "floor", "ceil", "sqrt", "table", "long", "square"]), children)
        | st.tuples(st.just("where"), children, children, children)
    ),
    max_leaves=6,
)


def build(tree, env):
    """The value of an expression tree, always a tensor."""
    if not isinstance(tree, tuple):
        return env[tree] if isinstance(tree, str) else env["q"] * 0 + tree
    name, *args = tree[0], *(build(item, env) for item in tree[1:])
    if name in ("table", "long"):
        number = args[0].float()
        number = torch.where(number == number, number, 0.0)  # NaN is no index, in PyTorch neither
        return FLOATS[number.abs().clamp(max=63).long()] if name == "table" else number.clamp(-1e6, 1e6).long()
    if name == "where":
        return torch.where(args[0] > args[1], args[1], args[2])
    return getattr(torch, name)(*args)


@example("q", ("long", ("div", "q", "q")), "lt")  # 0 / 0 has no bounds, and no integer
@given(trees, trees, st.sampled_from(["lt", "le", "eq", "ne", "ge"]))
@settings(max_examples=250, suppress_health_check=list(HealthCheck))
def test_floats_are_pytorchs(left, right, op):
    """Promotion, rounding, NaN and infinities: the graph's answer for every pair, and its block map."""

    def mask(b, h, q_idx, kv_idx):
        env = {"q": q_idx, "kv": kv_idx, "h": h}
        return getattr(torch, op)(build(left, env), build(right, env))

    reference = flex.create_block_mask(mask, 1, 2, 40, 56, device="cpu", BLOCK_SIZE=8)
    agree(Mask.from_function(mask).block_map(Workload((40,), 2, 64, kv_grid=(56,)), 8, 8), reference)


def test_wrapping_integers_are_left_to_the_function():
    def hashed(b, h, q_idx, kv_idx):
        return ((q_idx * 6364136223846793005 + kv_idx * 1442695040888963407) >> 7) % 5 == 0

    small = torch.arange(200, dtype=torch.uint8)

    def narrow(b, h, q_idx, kv_idx):
        return (small[q_idx] - small[kv_idx]) < 100  # uint8: below zero it wraps

    for function in (hashed, narrow):
        got = Mask.from_function(function).block_map(Workload((200,), 1, 64), 32, 64)
        agree(got, flex.create_block_mask(function, 1, 1, 200, 200, device="cpu", BLOCK_SIZE=(32, 64)))


def test_captured_in_objects_and_lists():
    class Packed:
        def __init__(self):
            self.document = zoo.DOCUMENT
            self.parts = {"span": [torch.tensor(40)]}

        def __call__(self, b, h, q_idx, kv_idx):
            return (self.document[q_idx] == self.document[kv_idx]) & (q_idx - kv_idx < self.parts["span"][0])

    got = Mask.from_function(Packed(), "packed").block_map(Workload((600,), 1, 64), 64, 64)
    agree(got, flex.create_block_mask(Packed(), 1, 1, 600, 600, device="cpu", BLOCK_SIZE=64))


@pytest.mark.parametrize("form", ["object", "tuple", "nested", "dict"])
def test_reads_a_saved_block_mask(form, tmp_path):
    saved = flex.create_block_mask(flex.noop_mask, 2, 3, 300, 500, device="cpu", BLOCK_SIZE=(64, 128))
    partial = flex.create_block_mask(zoo.alibi_window, 2, 3, 300, 500, device="cpu", BLOCK_SIZE=(64, 128))
    forms = {
        "object": lambda mask: mask,
        "tuple": lambda mask: mask.as_tuple()[:-1],
        "nested": lambda mask: mask.as_tuple(flatten=False),
        "dict": lambda mask: {name: getattr(mask, name) for name in (*TENSORS, "BLOCK_SIZE", "seq_lengths")},
    }
    for mask in (saved, partial):
        path = tmp_path / "mask.pt"
        torch.save(forms[form](mask), path)
        got = read_pt(str(path))
        agree(got, mask)
        assert (got.q_len, got.kv_len) == (300, 500)


def test_a_pickle_is_read_without_running_it(tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    mask = flex.create_block_mask(zoo.causal, 1, 1, 256, 256, device="cpu")
    torch.save({**{name: getattr(mask, name) for name in TENSORS}, "other": Hostile()}, tmp_path / "mask.pt")
    agree(read_pt(str(tmp_path / "mask.pt")), mask)
    assert not marker.exists()
