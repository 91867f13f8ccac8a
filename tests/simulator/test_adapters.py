"""How many keys does a window of W mean? Each adapter against its library's rule, written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast import InputError, Workload
from attncast.simulator.patterns import adapters
from attncast.simulator.patterns.combine import rule_of

from . import oracle

LENGTH = st.integers(1, 40)
WINDOW = st.integers(0, 45)


def mask_of(pattern, workload):
    pattern.check(workload)
    q, k = np.arange(workload.tokens), np.arange(workload.kv_tokens)
    return rule_of(pattern, workload).keeps(q[:, None], k[None])


def by_rule(queries, keys, keep):
    return np.array([[keep(i, j) for j in range(keys)] for i in range(queries)], dtype=bool).reshape(queries, keys)


@given(LENGTH, LENGTH, st.integers(-1, 45), st.integers(-1, 45), st.booleans())
def test_flash_attn(queries, keys, left, right, causal):
    # flash-attn: attention between [i + seqlen_k - seqlen_q - left, i + seqlen_k - seqlen_q + right] inclusive.
    def keep(i, j):
        middle = i + keys - queries
        high = 0 if causal else right
        return (left < 0 or j >= middle - left) and (high < 0 or j <= middle + high)

    workload = Workload((queries,), 1, 64, kv_grid=(keys,))
    got = mask_of(adapters.flash_attn((left, right), causal), workload)
    assert (got == by_rule(queries, keys, keep)).all()


def test_a_flash_attn_window_of_w_is_one_key_more():
    mask = mask_of(adapters.flash_attn((8, 0)), Workload((64,), 1, 64))
    assert mask[40].sum() == 9


@given(LENGTH, st.integers(1, 45))
def test_hugging_face_window(length, window):
    # transformers.masking_utils.sliding_window_overlay: kv_idx > q_idx - sliding_window, and causal.
    config = {"num_attention_heads": 4, "num_hidden_layers": 1, "head_dim": 64, "sliding_window": window}
    got = mask_of(adapters.hugging_face(config).patterns[0], Workload((length,), 4, 64))
    assert (got == by_rule(length, length, lambda i, j: i - window < j <= i)).all()


@given(LENGTH, LENGTH, WINDOW, WINDOW)
def test_xformers_local(queries, keys, left, right):
    # LocalAttentionFromBottomRightMask.materialize: triu(shift - left) of tril(shift + right), shift = keys - queries.
    workload = Workload((queries,), 1, 64, kv_grid=(keys,))
    pattern = adapters.xformers("LocalAttentionFromBottomRightMask", window_left=left, window_right=right)
    ones = np.ones((queries, keys), dtype=bool)
    expected = np.tril(np.triu(ones, keys - queries - left), keys - queries + right)
    assert (mask_of(pattern, workload) == expected).all()


@given(LENGTH, LENGTH, st.integers(1, 45))
def test_xformers_causal_local(queries, keys, window):
    # _materialize_causal_mask: tril(shift), then triu(shift - window_size + 1).
    workload = Workload((queries,), 1, 64, kv_grid=(keys,))
    pattern = adapters.xformers("LowerTriangularFromBottomRightLocalAttentionMask", _window_size=window)
    ones = np.ones((queries, keys), dtype=bool)
    expected = np.triu(np.tril(ones, keys - queries), keys - queries - window + 1)
    assert (mask_of(pattern, workload) == expected).all()


@given(LENGTH, WINDOW)
def test_attention_gym_sliding_window(length, window):
    # q_idx - kv_idx <= window_size, and causal: W + 1 keys.
    got = mask_of(adapters.attention_gym("generate_sliding_window", window), Workload((length,), 1, 64))
    assert (got == by_rule(length, length, lambda i, j: i - j <= window and j <= i)).all()


@given(st.integers(1, 7), st.integers(1, 7))
def test_attention_gym_natten(canvas, kernel):
    half = kernel // 2
    if 2 * half + 1 > canvas:
        with pytest.raises(InputError, match="expected at most the canvas"):
            adapters.attention_gym("generate_natten", canvas, canvas, kernel, kernel)
        return

    def keep(i, j):
        centre = [min(max(x, half), canvas - 1 - half) for x in divmod(i, canvas)]
        return all(abs(c - x) <= half for c, x in zip(centre, divmod(j, canvas), strict=True))

    pattern = adapters.attention_gym("generate_natten", canvas, canvas, kernel, kernel)
    got = mask_of(pattern, Workload((canvas, canvas), 1, 64))
    assert (got == by_rule(canvas**2, canvas**2, keep)).all()
    assert (got.sum(axis=1) == (kernel + 1 - kernel % 2) ** 2).all()


@given(LENGTH, WINDOW, st.integers(1, 9))
def test_attention_gym_dilated_and_prefix(length, window, dilation):
    workload = Workload((length,), 1, 64)
    got = mask_of(adapters.attention_gym("generate_dilated_sliding_window", window, dilation), workload)
    assert (got == by_rule(length, length, lambda i, j: abs(i - j) <= window and abs(i - j) % dilation == 0)).all()
    got = mask_of(adapters.attention_gym("generate_prefix_lm_mask", window), workload)
    assert (got == by_rule(length, length, lambda i, j: j < window or j <= i)).all()


def test_attention_gym_documents():
    got = mask_of(adapters.attention_gym("generate_doc_mask_mod", [3, 4], "causal"), Workload((7,), 1, 64))
    assert (got == by_rule(7, 7, lambda i, j: (i < 3) == (j < 3) and j <= i)).all()


@given(st.data())
def test_natten(data):
    grid = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    dilation = tuple(data.draw(st.integers(1, min(2, n))) for n in grid)
    window = tuple(data.draw(st.integers(1, n // d)) for n, d in zip(grid, dilation, strict=True))
    stride = tuple(data.draw(st.integers(1, w)) for w in window)
    causal = tuple(data.draw(st.booleans()) for _ in grid)
    got = mask_of(adapters.natten(window, stride, dilation, causal), Workload(grid, 1, 64))
    assert (got == oracle.neighborhood_mask(grid, window, stride, dilation, causal)).all()
    if not any(causal):
        assert (got.sum(axis=1) == np.prod(window)).all()  # W keys on every axis, at the edges too


def test_natten_single_numbers_count_for_every_axis():
    assert str(adapters.natten(8, 2, axes=2)) == "na window=8x8 stride=2x2"


def test_hugging_face_layers():
    config = {
        "text_config": {
            "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 1024, "num_hidden_layers": 3,
            "sliding_window": 512, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        "num_attention_heads": 99,
    }  # fmt: skip
    model = adapters.hugging_face(config)
    assert (model.heads, model.heads_kv, model.head_dim) == (8, 4, 128)
    assert [str(p) for p in model.patterns] == ["window left=511 right=0"] * 2 + ["causal"]
    workload = model.workload(128, cached=1024)
    assert (workload.heads, workload.kv_heads, workload.kv_tokens) == (8, 4, 1152)


def test_qwen_slides_from_a_layer_on_only_when_told_to():
    config = {
        "num_attention_heads": 8, "head_dim": 64, "num_hidden_layers": 4, "sliding_window": 512,
        "use_sliding_window": True, "max_window_layers": 3,
    }  # fmt: skip
    assert [str(p) for p in adapters.hugging_face(config).patterns] == ["causal"] * 3 + ["window left=511 right=0"]
    off = adapters.hugging_face({**config, "use_sliding_window": False})
    assert {str(p) for p in off.patterns} == {"causal"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: adapters.flash_attn((-2, 0)), "-1 for no limit"),
        (lambda: adapters.natten((3, 3), stride=(1, 1, 1)), "expected 2 whole numbers"),
        (lambda: adapters.xformers("LocalAttentionMask"), "did you mean"),
        (lambda: adapters.xformers("LowerTriangularMask", window_left=3), "expected no arguments"),
        (lambda: adapters.attention_gym("generate_sliding_windows", 3), "did you mean 'generate_sliding_window'"),
        (lambda: adapters.attention_gym("generate_natten", 8, 6, 3, 3), "square canvas"),
        (lambda: adapters.hugging_face({"num_attention_heads": 8}), "num_hidden_layers None"),
        (
            lambda: adapters.hugging_face(
                {"num_attention_heads": 8, "num_hidden_layers": 1, "head_dim": 64, "layer_types": ["sliding_atention"]}
            ),
            "did you mean 'sliding_attention'",
        ),
    ],
)
def test_what_a_library_does_not_take_says_so(call, said):
    with pytest.raises(InputError) as error:
        call()
    assert said in str(error.value)
