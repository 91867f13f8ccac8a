"""Passes come from who reads what, never from a name: the known cascades, variants of them, and an oracle."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast.errors import InputError
from attncast.simulator import cascades
from attncast.simulator.einsum import (
    Cascade,
    bind,
    dependency_graph,
    difference,
    parse,
    passes,
    reduced_ranks,
    show,
)
from attncast.simulator.einsum.ir import index_vars
from attncast.simulator.einsum.passes import leaves

SEQUENCE_PASSES = {
    "naive": 2,
    "naive_deferred": 1,
    "three_pass": 3,
    "three_pass_deferred": 2,
    "two_pass": 2,
    "flash_attention_2": 1,
    "flash_attention_2_causal": 1,
    "flash_attention_4": 1,
    "rabe_staats": 1,
    "split_kv": 1,
    "sigmoid": 1,
    "flash_backward": 1,
    "lightning_1": 1,
    "gqa": 2,
    "sage_int8": 2,
}


def text_of(name: str) -> str:
    return show(cascades.load(name))


@pytest.mark.parametrize(("name", "expected"), SEQUENCE_PASSES.items())
def test_passes_over_the_keys(name: str, expected: int) -> None:
    assert passes(cascades.load(name), "M").count == expected


@pytest.mark.parametrize("name", ["linear_causal", "hedgehog", "based", "lightning_2", "retention", "gated_linear"])
def test_causal_linear_attention_is_one_pass(name: str) -> None:
    assert passes(cascades.load(name), "N").count == 1


def test_merging_splits_is_a_second_pass_over_the_splits_alone() -> None:
    cascade = cascades.load("split_kv")
    assert passes(cascade, "M").count == 1
    assert passes(cascade, "M1").count == 2


def test_each_extra_pass_names_the_einsum_that_forces_it() -> None:
    found = [(b.begins, b.reader, b.reduction) for b in passes(cascades.load("three_pass"), "M").barriers]
    assert found == [(2, "SN", "GM"), (3, "A", "SD")]
    (inner,) = passes(cascades.load("flash_attention_2"), "M0").barriers
    assert (inner.reader, inner.operand, inner.reduction) == ("SLN", "RM", "LM")


def test_einsums_of_one_pass_may_fuse() -> None:
    cascade = cascades.load("three_pass_deferred")
    tensors = [e.target.tensor for e in cascade.scope.einsums]
    groups = [{tensors[n] for n in group} for group in passes(cascade, "M").groups]
    assert groups == [{"QS", "QK", "GM"}, {"SN", "SD", "SNV", "AV"}]


# Variants by hand.


def renamed(text: str) -> str:
    """Every tensor under another name."""
    for k, name in enumerate(sorted(set(re.findall(r"\b(\w+)\[", text)) - {"Q", "K", "V"}, key=len, reverse=True)):
        text = re.sub(rf"\b{name}\b(?=\[|$|,)", f"T{k}X", text, flags=re.M)
    return text


def reordered(text: str) -> str:
    """The statements from last to first."""
    return "\n".join(reversed(text.splitlines())) + "\n"


@pytest.mark.parametrize("name", [n for n, _ in SEQUENCE_PASSES.items()])
@pytest.mark.parametrize("change", [renamed, reordered, lambda t: renamed(reordered(t))])
def test_names_and_order_do_not_matter(name: str, change: Any) -> None:
    assert passes(parse(change(text_of(name))), "M").count == SEQUENCE_PASSES[name]


def variant(name: str, *changes: tuple[str, str]) -> Cascade:
    text = text_of(name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text, "variant")


def test_redundant_einsums_add_no_pass() -> None:
    # Dead ones, that nothing reads; live ones: a copy of the scores, the scores computed twice.
    dead = "GM[p] = max(m) QK[m, p]\nSN2[m, p] = exp(QK[m, p] - GM[p])\n"
    assert passes(variant("naive_deferred", ("output", dead + "output")), "M").count == 1
    copied = variant(
        "flash_attention_2",
        (
            "SLN[m1, m0, p] = exp(QK[m1, m0, p]",
            "COPY[m1, m0, p] = QK[m1, m0, p]\nSLN[m1, m0, p] = exp(COPY[m1, m0, p]",
        ),
        ("output", "X[m1, p] = sum(m0) QK[m1, m0, p]\nGX[p] = sum(m1) X[m1, p]\noutput"),
    )
    assert passes(copied, "M").count == 1
    twice = variant(
        "three_pass",
        ("SN[m, p] = exp(QK[m, p]", "QB[m, p] = sum(e) QS[e, p] * K[e, m]\nSN[m, p] = exp(QB[m, p]"),
    )
    assert passes(twice, "M").count == 3
    assert difference(twice, cascades.load("three_pass"), {"E": 3, "F": 2, "M": 5, "P": 4}) < 1e-12


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        # The mean of the scores, over chunks and then over chunks' sums, taken away from every score.
        (
            "flash_attention_2",
            [
                (
                    "LM[m1, p] = max(m0) QK[m1, m0, p]",
                    "C[m1, p] = sum(m0) QK[m1, m0, p]\nG[p] = sum(m1) C[m1, p]\n"
                    "B[m1, m0, p] = QK[m1, m0, p] - G[p] / M\nLM[m1, p] = max(m0) B[m1, m0, p]",
                ),
                ("exp(QK[m1, m0, p] -", "exp(B[m1, m0, p] -"),
            ],
            2,
        ),
        # Through tensors without the rank, and a broadcast that carries it in name only.
        (
            "naive_deferred",
            [
                (
                    "SN[m, p] = exp(QK[m, p])",
                    "GM[p] = max(m) QK[m, p]\nH[p] = GM[p] * 2\nI[p] = H[p] / 2\n"
                    "W[m, p] = I[p]\nSN[m, p] = exp(QK[m, p] - W[m, p])",
                ),
            ],
            2,
        ),
        # The last coordinate of an iterative rank is a completed reduction.
        (
            "flash_attention_2",
            [
                (
                    "AV[f, p] = RNV[M1, f, p] / RD[M1, p]",
                    "A[m1, m0, p] = SLN[m1, m0, p] / RD[M1, p]\n"
                    "AV[f, p] = sum(m1, m0) A[m1, m0, p] * V[f, m1*M0+m0] + RNV[M1, f, p] * 0",
                )
            ],
            2,
        ),
        # Normalising keys by their mean before the 3-pass cascade.
        (
            "three_pass",
            [
                (
                    "QK[m, p] = sum(e) QS[e, p] * K[e, m]",
                    "KM[e] = sum(m) K[e, m]\nKC[e, m] = K[e, m] - KM[e] / M\nQK[m, p] = sum(e) QS[e, p] * KC[e, m]",
                )
            ],
            4,
        ),
        # A reduction that only the epilogue uses forces nothing.
        (
            "naive_deferred",
            [
                (
                    "AV[f, p] = SNV[f, p] / SD[p]",
                    "GM[p] = max(m) QK[m, p]\nAV[f, p] = SNV[f, p] / SD[p] * GM[p]",
                )
            ],
            1,
        ),
        # A reduction over a part of the rank that stays in its chunk is a barrier on the chunk.
        (
            "rabe_staats",
            [
                (
                    "SLNV[m1, f, p] = sum(m0) SLN[m1, m0, p]",
                    "N[m1, m0, p] = SLN[m1, m0, p] / SLD[m1, p]\nSLNV[m1, f, p] = sum(m0) N[m1, m0, p]",
                )
            ],
            1,
        ),
        # A reduction across chunks, one per place in the chunk, needs them all.
        (
            "rabe_staats",
            [
                (
                    "LM[m1, p] = max(m0) QK[m1, m0, p]",
                    "LM[m1, p] = max(m0) QK[m1, m0, p] - X[m0, p]\nX[m0, p] = max(m1) QK[m1, m0, p]",
                )
            ],
            2,
        ),
    ],
)
def test_hidden_reductions_are_found(name: str, changes: list[tuple[str, str]], expected: int) -> None:
    assert passes(variant(name, *changes), "M").count == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # One tensor traversed under two names.
        ("S[] = sum(n) A[n]\nZ[i] = A[i] * S[]", 2),
        ("S[] = sum(i) A[i]\nZ[n] = A[n] * S[]", 2),
        # A prefix is there when it is read; a suffix is not.
        ("S[i] = sum(n) A[n] where n <= i\nZ[i] = A[i] * S[i]", 1),
        ("S[i] = sum(n) A[n] where n < i\nZ[i] = A[i] * S[i]", 1),
        ("S[i] = sum(n) A[n] where i >= n\nZ[i] = A[i] * S[i]", 1),
        ("S[i] = sum(n) A[n] where n >= i\nZ[i] = A[i] * S[i]", 2),
        # A causal softmax still re-reads its row after the row's sum.
        ("B[n, i] = A[n] * A[i] where n <= i\nS[i] = sum(n) B[n, i]\nZ[i] = sum(n) B[n, i] / S[i]", 2),
        ("S[0] = 0\nS[n+1] = S[n] + A[n]\nZ[n] = A[n] * S[n+1]\niterate n until n == N", 1),
        ("S[0] = 0\nS[n+1] = S[n] + A[n]\nZ[n] = A[n] * S[N]\niterate n until n == N", 2),
        ("Z[i] = A[i] * 2", 1),
    ],
)
def test_prefixes_and_second_names_of_a_rank(body: str, expected: int) -> None:
    assert passes(parse(f"input A[N]\nrank I = N\n{body}\noutput Z\n"), "N").count == expected


def test_online_softmax_of_single_elements_is_one_pass() -> None:
    text = text_of("flash_attention_2").replace("rank M = M1*M0\nrank M0 default 128\n", "")
    text = text.replace("m1*M0+m0", "m").replace("m1, m0", "m").replace("m1", "m").replace("M1", "M")
    text = text.replace("max(m0) ", "").replace("sum(m0) ", "")
    cascade = parse(text)
    assert passes(cascade, "M").count == 1
    assert difference(cascade, cascades.load("three_pass"), {"E": 4, "F": 3, "M": 9, "P": 5}) < 1e-12


def test_ranks_are_told_apart() -> None:
    text = "input A[M, N]\nS[n] = sum(m) A[m, n]\nB[m, n] = A[m, n] / S[n]\nZ[m] = sum(n) B[m, n]\noutput Z\n"
    cascade = parse(text)
    assert (passes(cascade, "M").count, passes(cascade, "N").count) == (2, 1)
    with pytest.raises(InputError, match="unknown rank of cascade 'cascade' 'X'"):
        passes(cascade, "X")


@given(st.integers(min_value=1, max_value=9))
@settings(max_examples=9)
def test_k_normalisations_make_k_plus_one_passes(k: int) -> None:
    lines = [f"S{n}[] = sum(m) X{n}[m]\nX{n + 1}[m] = X{n}[m] / S{n}[]" for n in range(k)]
    cascade = parse("input X0[M]\n" + "\n".join(lines) + f"\nZ[] = max(m) X{k}[m]\noutput Z\n")
    assert passes(cascade, "M").count == k + 1
    assert len(passes(cascade, "M").barriers) == k


# The oracle: when can each element be had, if the rank streams by chunk after chunk, again and again?


def earliest_pass(cascade: Cascade, rank: str, sizes: dict[str, int]) -> int:
    """Passes over ``rank`` by following every element; a chunk of the rank's inner parts is one moment."""
    scope, size = cascade.scope, bind(cascade, sizes, exact=True)
    parts = leaves(scope, rank)
    inner = int(np.prod([size[part] for part in parts[1:]], initial=1))
    moments = size[parts[0]]
    times = {
        name: np.zeros([size[r] + (k == scope.states.get(name)) for k, r in enumerate(shape)], dtype=int)
        for name, shape in scope.shapes.items()
    }
    last = 0

    def coordinate(index: Any, point: dict[str, int]) -> int:
        if index.last:
            return size[index.last]
        return index.offset + sum(point[t.var] * int(np.prod([size[r] for r in t.stride])) for t in index.terms)

    def holds(keep: Any, point: dict[str, int]) -> bool:
        a, b = coordinate(keep.left, point), coordinate(keep.right, point)
        return {"<=": a <= b, "<": a < b, ">=": a >= b, ">": a > b, "==": a == b}[keep.op]

    for var, members in scope.groups:
        for step in range(size[scope.stops[var]] if var else 1):
            for n in members:
                if n not in scope.live:
                    continue
                einsum, reads = scope.einsums[n], scope.reads[n]
                names = [*index_vars(*einsum.target.indices), *einsum.over]
                used = {leaf for r in reads for v in index_vars(*r.indices) for leaf in leaves(scope, v.upper())}
                traverses = set(parts) <= used
                ranges = [[step] if v == var else range(size[v.upper()]) for v in names]
                for values in product(*ranges):
                    point = dict(zip(names, values, strict=True))
                    if not all(holds(f, point) for f in scope.filters[n]):
                        continue
                    t = max(
                        (times[r.tensor][tuple(coordinate(i, point) for i in r.indices)] for r in reads),
                        default=0,
                    )
                    if traverses:
                        now = point[parts[0].lower()] if parts[0].lower() in point else point[rank.lower()] // inner
                        t += (now - t) % moments
                        last = max(last, t)
                    where = tuple(coordinate(i, point) for i in einsum.target.indices)
                    times[einsum.target.tensor][where] = max(times[einsum.target.tensor][where], t)
    return int(last // moments + 1)


ORACLE = sorted(set(cascades.names()) - {"sage_fp4"})


@pytest.mark.parametrize("name", ORACLE)
def test_passes_agree_with_following_every_element(name: str) -> None:
    cascade = cascades.load(name)
    for rank in reduced_ranks(cascade):
        if (name, rank) == ("based", "E"):
            continue  # its G reads the same elements in another order, which the oracle takes for a pass
        sizes = {r: 2 for r in cascade.scope.ranks if r not in cascade.scope.parts and cascade.scope.same[r] == r}
        # A reader of the last element may go on at once, so k barriers show only if there are more moments.
        sizes[leaves(cascade.scope, cascade.scope.same[rank])[0]] = 6
        assert passes(cascade, rank).count == earliest_pass(cascade, rank, sizes), rank


def random_cascade(seed: int) -> str:
    """A random cascade over M = M1*M0: maps, reductions, broadcasts, and states that stream over M1."""
    random = np.random.default_rng(seed)
    shapes = {"A[m1, m0]": 2, "B[m1, m0]": 2, "C[m1]": 1}
    lines = ["input A[M1, M0], B[M1, M0], C[M1]", "rank M = M1*M0", "iterate m1 until m1 == M1"]
    for n in range(int(random.integers(3, 9))):
        one, two = (str(random.choice(list(shapes))) for _ in range(2))
        kept = max(shapes[one], shapes[two])
        left = f"T{n}" + ("[]", "[m1]", "[m1, m0]")[kept]
        kind = random.choice(["map", "reduce", "state", "broadcast"], p=[0.3, 0.4, 0.2, 0.1])
        if kind == "reduce" and kept:
            to = int(random.integers(0, kept))
            left = f"T{n}" + ("[]", "[m1]")[to]
            lines.append(f"{left} = sum({', '.join(['m1', 'm0'][to:kept])}) {one} * {two}")
            shapes[left] = to
        elif kind == "state" and kept == 1:
            lines += [f"T{n}[0] = 0", f"T{n}[m1+1] = T{n}[m1] + {one} * {two}"]
            shapes |= {f"T{n}[m1]": 1, f"T{n}[m1+1]": 1, f"T{n}[M1]": 0}
        else:
            left = f"T{n}[m1, m0]" if kind == "broadcast" else left
            lines.append(f"{left} = {one} * {two}")
            shapes[left] = 2 if kind == "broadcast" else kept
    lines.append("Z[] = sum(m1, m0) A[m1, m0] + " + " + ".join(list(shapes)[-3:]))
    return "\n".join([*lines, "output Z", ""])


@pytest.mark.parametrize("seed", range(120))
def test_random_cascades_agree_with_following_every_element(seed: int) -> None:
    text = random_cascade(seed)
    found, barriers = passes(parse(text), "M").count, passes(parse(text), "M").barriers
    assert {barrier.begins for barrier in barriers} == set(range(2, found + 1))
    assert found == earliest_pass(parse(text), "M", {"M1": 11, "M0": 2}), text


def test_dependency_graph() -> None:
    graph = dependency_graph(cascades.load("flash_attention_2"))
    assert {n for n, kind in graph.nodes(data="kind") if kind == "state"} == {"RM", "RD", "RNV"}
    assert nx.has_path(graph, "K", "AV")
    carried = [(a, b) for a, b, c in graph.edges(data="carried") if c]
    forward = nx.DiGraph((a, b) for a, b, _ in graph.edges if a != b)
    assert {("RM", "PRM"), ("RM", "RM"), ("RD", "RD"), ("RNV", "RNV")} <= set(carried)
    assert nx.is_directed_acyclic_graph(forward)
