"""Live footprints, the traffic bound, the summary, and evaluation's own errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from attncast.errors import InputError
from attncast.simulator import cascades
from attncast.simulator.einsum import evaluate, parse, random_inputs, reduced_ranks, summary, traffic_bound

SIZES = {"E": 64, "F": 64, "M": 4096, "P": 4096}


def footprint(name: str) -> dict[str, str]:
    found: dict[str, str] = summary(cascades.load(name))["footprint"]
    return found


def test_what_a_later_pass_reads_again_is_a_whole_fiber() -> None:
    assert footprint("three_pass") == {
        "QS": "O(1)",
        "QK": "O(M)",
        "GM": "O(1)",
        "SN": "O(M)",
        "SD": "O(1)",
        "A": "O(1)",
        "AV": "O(1)",
    }
    deferred = footprint("three_pass_deferred")
    assert (deferred["QK"], deferred["SN"]) == ("O(M)", "O(1)")


def test_flash_attention_keeps_one_chunk() -> None:
    assert {t: f for t, f in footprint("flash_attention_2").items() if f != "O(1)"} == {"QK": "O(M0)"}


def test_two_passes_keep_the_scores_and_a_number_per_chunk() -> None:
    found = footprint("two_pass")
    assert (found["QK"], found["LM"], found["SLN"]) == ("O(M0)", "O(M1)", "O(M)")
    split = footprint("split_kv")
    assert (split["LSE"], split["O"], split["QK"]) == ("O(M1)", "O(M1)", "O(M0)")


def test_a_linear_state_does_not_grow_with_the_sequence() -> None:
    assert set(footprint("linear_causal").values()) == {"O(1)"}


def test_dead_tensors_have_no_footprint() -> None:
    text = "input A[M]\nX[m] = exp(A[m])\nZ[] = sum(m) A[m]\noutput Z\n"
    assert summary(parse(text))["footprint"] == {"Z": "O(1)"}
    assert summary(parse(text))["dead"] == ["X"]


def test_traffic_is_what_goes_in_and_out_where_every_fiber_fits() -> None:
    for name in ("flash_attention_2", "three_pass"):
        found = traffic_bound(cascades.load(name), SIZES, buffer=8192)
        assert (found.inputs, found.outputs, found.extra) == (3 * 64 * 4096, 64 * 4096, 0)
        assert found.total == 4 * 64 * 4096


def test_a_fiber_that_does_not_fit_moves_again() -> None:
    # Each of two boundaries: the keys once more (the scores, written and read, are dearer).
    found = traffic_bound(cascades.load("three_pass"), SIZES, buffer=1000)
    assert found.extra == 2 * 64 * (4096 - 1000)
    assert "SN reads M again after GM is complete" in found.reasons[0]
    # With wide keys it is the scores that go out and come back.
    wide = traffic_bound(cascades.load("three_pass_deferred"), {**SIZES, "E": 10**6, "P": 2}, buffer=1000)
    assert wide.extra == 2 * 2 * (4096 - 1000)
    assert traffic_bound(cascades.load("flash_attention_2"), SIZES, buffer=1000).extra == 0


def test_less_buffer_never_means_less_traffic() -> None:
    for name in cascades.names():
        cascade = cascades.load(name)
        free = [r for r in cascade.scope.ranks if r not in cascade.scope.parts and cascade.scope.same[r] == r]
        sizes = dict.fromkeys(free, 4)
        totals = [traffic_bound(cascade, sizes, buffer).total for buffer in (1, 3, 8, 64, 10**6)]
        assert totals == sorted(totals, reverse=True), name


def test_summary_is_json_and_symbolic_until_sizes_are_given() -> None:
    symbolic = summary(cascades.load("flash_attention_2"))
    assert json.loads(json.dumps(symbolic)) == symbolic
    assert symbolic["passes"]["M"] == 1
    assert symbolic["ops"]["mul_add"] == "E*M*P + F*M*P"
    bound = summary(cascades.load("flash_attention_2"), {"E": 128, "F": 128, "M": 65536, "P": 65536})
    assert bound["ops"]["mul_add"] == 256 * 65536**2
    assert bound["footprint"]["QK"] == 128
    assert json.loads(json.dumps(bound)) == bound
    assert summary(cascades.load("three_pass"))["barriers"] == [
        "pass 2 over M: SN reads it again after GM is complete",
        "pass 3 over M: A reads it again after SD is complete",
    ]


def test_ranks_that_are_reduced_or_iterated() -> None:
    assert reduced_ranks(cascades.load("flash_attention_2")) == ("E", "M")
    assert reduced_ranks(cascades.load("linear_causal")) == ("E", "N")
    assert reduced_ranks(cascades.load("axial")) == ("E", "I", "J")


def test_counting_needs_no_networkx() -> None:
    code = (
        "import sys; from attncast.simulator import cascades; from attncast.simulator.einsum import summary; "
        "summary(cascades.load('flash_attention_2')); sys.exit('networkx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Evaluation.


def test_conditional_rescaling_is_exact_where_maxima_jump_and_where_they_creep() -> None:
    sizes = {"E": 6, "F": 5, "M": 32, "P": 9, "M0": 4}
    for spread in (0.1, 3.0, 12.0):
        inputs = random_inputs(cascades.load("flash_attention_4"), sizes)
        inputs["Q"] = inputs["Q"] * spread
        expected = evaluate(cascades.load("three_pass"), inputs)["AV"]
        for name in ("flash_attention_4", "flash_attention_2", "two_pass", "rabe_staats"):
            found = evaluate(cascades.load(name), inputs, {"M0": 4})["AV"]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_filters_skip_points_and_states_stay() -> None:
    a = np.array([3.0, -1.0, 2.0, 5.0])
    body = "rank I = N\nB[n, i] = A[n] * 1 where n < i\n"
    prefix = evaluate(parse(f"input A[N]\n{body}S[i] = sum(n) B[n, i]\nX[i] = max(n) B[n, i]\noutput S, X\n"), {"A": a})
    np.testing.assert_array_equal(prefix["S"], [0, 3, 2, 4])
    np.testing.assert_array_equal(prefix["X"], [-np.inf, 3, 3, 3])
    loop = "iterate i until i == I\nS[0, n] = 0\nS[i+1, n] = S[i, n] + B[n, i]\nZ[n] = S[I, n]\n"
    state = evaluate(parse(f"input A[N]\n{body}{loop}output Z\n"), {"A": a})
    np.testing.assert_array_equal(state["Z"], a * [3, 2, 1, 0])


def test_a_fixed_coordinate_is_read_and_must_exist() -> None:
    text = "input A[M]\nZ[m] = A[m] - A[2]\noutput Z\n"
    np.testing.assert_array_equal(evaluate(parse(text), {"A": [1.0, 2.0, 5.0]})["Z"], [-4, -3, 0])
    with pytest.raises(InputError, match="line 2, column 17: 'A' has no coordinate 2: rank 'M' is 2"):
        evaluate(parse(text), {"A": [1.0, 2.0]})


def test_low_precision_roundings() -> None:
    text = "input A[M]\nX[m] = e2m1(A[m])\nY[m] = e4m3(A[m])\noutput X, Y\n"
    found = evaluate(parse(text), {"A": np.array([0.2, 0.25, 0.3, 2.5, 3.5, 5.0, -7.0, 17.0, 1e4])})
    np.testing.assert_array_equal(found["X"], [0, 0, 0.5, 2, 4, 4, -6, 6, 6])
    np.testing.assert_array_equal(found["Y"], [0.203125, 0.25, 0.3125, 2.5, 3.5, 5, -7, 16, 448])


def test_roundings_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(2000) * np.logspace(-4, 2.5, 2000)
    found = evaluate(parse("input A[M]\nY[m] = e4m3(A[m])\noutput Y\n"), {"A": x})["Y"]
    expected = torch.tensor(x, dtype=torch.float32).clamp(-448, 448).to(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        (
            {"V": np.zeros((2, 9))},
            {},
            "three, line 1, column 25: rank-size conflict: rank 'M' is 9 in 'V' but 8 in 'K'",
        ),
        ({"V": np.zeros(8)}, {}, r"'V' has ranks \[F, M\], but its array has 1 axes"),
        ({"W": np.zeros(8)}, {}, "unknown input of cascade 'three' 'W'"),
        ({}, {"M": 4}, "rank 'M' is 8 in 'K' but 4 in the sizes given"),
        ({}, {"M0": 3}, "rank-size conflict: M = M1\\*M0 is 8, but M1 = 3, M0 = 3"),
    ],
)
def test_bad_inputs(change: dict[str, np.ndarray], sizes: dict[str, int], message: str) -> None:
    text = "input Q[E, P], K[E, M], V[F, M]\nrank M = M1*M0\nrank M0 default 2\n"
    text += "Z[f, e, p] = sum(m) V[f, m] * K[e, m] * Q[e, p]\noutput Z\n"
    arrays = {"Q": np.zeros((3, 4)), "K": np.zeros((3, 8)), "V": np.zeros((2, 8)), **change}
    with pytest.raises(InputError, match=message):
        evaluate(parse(text, "three"), arrays, sizes)
    with pytest.raises(InputError, match="cascade 'three' needs input 'Q'"):
        evaluate(parse(text, "three"), {})
