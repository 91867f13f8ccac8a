"""What measured runs span: written and read back, never outside of itself, and what a forecast's note says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast import Conditions, InputError, Workload, parse_pattern, predict
from attncast.simulator.calibration import packaged_calibration
from attncast.simulator.checked import checked
from attncast.simulator.evidence import BEYOND, outside, parse_seen, pattern_kind, seen_in

PATTERNS = ("dense", "causal", "window left=128 right=0", "na window=7", "streaming sink=4 window=128")
CALLS = st.lists(
    st.tuples(
        st.builds(
            lambda tokens, sharing, kv_heads, dims, batch, cached: Workload(
                (tokens,), sharing * kv_heads, dims[0], batch, kv_heads, cached=cached, head_dim_v=dims[1]
            ),
            st.integers(1, 4096),
            st.sampled_from([1, 4, 8]),
            st.integers(1, 16),
            st.sampled_from([(64, 64), (128, 128), (192, 128)]),
            st.integers(1, 64),
            st.integers(0, 4096),
        ),
        st.sampled_from([parse_pattern(text) for text in PATTERNS]),
        st.floats(1e-6, 1.0),
    ),
    min_size=1,
    max_size=8,
)


def kind_seen(workload, pattern):
    """One token sees all keys before it, causal or not."""
    return "causal" if (workload.tokens, str(pattern)) == (1, "dense") else pattern_kind(pattern)


@given(CALLS)
def test_what_was_seen_is_read_back_and_holds_its_own_calls(calls):
    seen = seen_in(calls)
    read = parse_seen(str(seen), "a test")
    assert (read.head_dims, read.patterns) == (seen.head_dims, seen.patterns)
    assert read.keys == pytest.approx(seen.keys)
    for call in calls:
        assert read.beyond(*call) == []


@given(CALLS, CALLS)
def test_a_call_is_outside_just_where_one_of_its_terms_is(calls, others):
    seen = seen_in(calls)
    for workload, pattern, time_s in others:
        names = (workload.head_dim, workload.dim_v) not in [(w.head_dim, w.dim_v) for w, _, _ in calls]
        kinds = kind_seen(workload, pattern) not in [kind_seen(w, of) for w, of, _ in calls]
        numbers = sum(
            not min(terms) / BEYOND <= term <= max(terms) * BEYOND
            for term, terms in [
                (workload.tokens, [w.tokens for w, _, _ in calls]),
                (workload.kv_tokens, [w.kv_tokens for w, _, _ in calls]),
                (workload.batch, [w.batch for w, _, _ in calls]),
                (workload.heads, [w.heads for w, _, _ in calls]),
                (workload.gqa_ratio, [w.gqa_ratio for w, _, _ in calls]),
                (time_s, [of for _, _, of in calls]),
            ]
        )
        assert len(seen.beyond(workload, pattern, time_s)) == names + kinds + numbers


def test_the_sentence_names_what_is_outside_and_what_was_seen():
    calls = [(Workload((n,), 8, d), parse_pattern("causal"), 1e-4 * n) for n, d in ((1, 64), (8, 128))]
    seen = seen_in(calls)
    assert outside(seen, *calls[0]) == ""
    said = outside(seen, Workload((64,), 8, 96, batch=4), parse_pattern("dense"), 1e-4)
    assert said == (
        " Outside of these runs: head dim 96 (64, 128), pattern dense (causal), new tokens 64 (1 to 8), "
        "keys 64 (1 to 8), sequences 4 (1)."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected head_dims"),
        ("head_dims=64", "expected head_dims"),
        ("{whole} more=1..2", "expected head_dims"),
        ("{whole} stray", "expected head_dims"),
        ("{backwards}", "expected the smallest and the largest"),
        ("{nan}", "expected the smallest and the largest"),
    ],
)
def test_a_spoilt_text_is_refused(text, expected):
    whole = str(seen_in([(Workload((8,), 8, 64), parse_pattern("causal"), 1e-4)]))
    spoilt = text.format(
        whole=whole, backwards=whole.replace("keys=8..8", "keys=9..8"), nan=whole.replace("keys=8..8", "keys=1..nan")
    )
    with pytest.raises(InputError, match=expected):
        parse_seen(spoilt, "a file")


def test_a_forecast_says_what_holds_it():
    causal = "causal"
    held = predict(Workload((4096,), 32, 128), causal, "h100", "fa3")
    assert held.notes[0].startswith("Nothing is fitted; forecasts of ")
    assert "runs of h100 fa3 prefill 16-bit are" in held.notes[0]
    assert "Outside" not in held.notes[0]
    assert "Outside of these runs: head dim 32 (" in predict(Workload((4096,), 32, 32), causal, "h100", "fa3").notes[0]
    # A GPU without runs is told of those of its own generation.
    other = predict(Workload((4096,), 32, 128), causal, "h200", "fa3").notes[0]
    assert other.startswith("Nothing is fitted, and no measured run of h200 fa3 prefill 16-bit is known; ")
    assert "runs of h100 fa3 prefill 16-bit are" in other
    # A user's own kernel has none anywhere.
    own = predict(Workload((4096,), 32, 128), causal, "h100", "examples/add_kernel/pingpong.toml").notes[0]
    assert own.endswith("is known.")


def test_fitted_constants_say_where_they_end():
    fits = packaged_calibration()
    vllm = Conditions(appends=True, engine="vllm")
    inside = predict(Workload((4096,), 32, 128), "causal", "h100", "fa3", conditions=vllm, calibration=fits)
    assert "off by" in inside.notes[0]
    assert "Outside" not in inside.notes[0]
    dense = predict(Workload((4096,), 32, 128), "dense", "h100", "fa3", conditions=vllm, calibration=fits)
    assert dense.notes[0].endswith("Outside of these runs: pattern dense (causal, window).")


def test_every_fit_and_every_check_says_what_it_saw():
    assert all(found.seen is not None for found in packaged_calibration().constants.values())
    assert all(
        found.rows > 0 and found.mape >= 0 and abs(found.bias) <= found.mape + 1e-9 for found in checked().values()
    )
