"""Operation counts: the published table as polynomials, enumeration as the oracle, and speed."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.errors import InputError
from attncast.simulator import cascades
from attncast.simulator.einsum import Cascade, Poly, bind, einsum_costs, op_counts, parse, summary
from attncast.simulator.einsum.ir import Access, Apply, Expr, Name, Number, index_vars

E, F, M, M1, P = (Poly.rank(name) for name in ("E", "F", "M", "M1", "P"))


def counts(name: str) -> dict[str, Poly]:
    return op_counts(cascades.load(name))


def test_three_pass_counts_are_those_of_the_table() -> None:
    assert counts("three_pass") == {
        "mul": E * P,  # the scaling
        "mul_add": (E + F) * M * P,
        "max": M * P,
        "sub": M * P,
        "exp": M * P,
        "add": M * P,
        "divide": M * P,
    }
    assert counts("three_pass_deferred")["divide"] == F * P


def test_one_pass_counts_are_those_of_the_table() -> None:
    chunk = M1 * P
    assert counts("flash_attention_2") == {
        "mul": E * P + chunk + F * chunk,  # the scaling, and the correction's (1+F) M1 P
        "mul_add": (E + F) * M * P,
        "max": M * P + chunk,
        "sub": M * P + chunk,
        "exp": M * P + chunk,
        "add": M * P + chunk + F * chunk,  # the sum, and the correction's F M1 P
        "divide": F * P,
    }


def test_what_each_einsum_costs() -> None:
    costs = {cost.tensor: cost for cost in einsum_costs(cascades.load("flash_attention_2")) if cost.ops}
    assert costs["QK"].ops == {"mul_add": E * M * P}
    assert costs["SLNV"].ops == {"mul_add": F * M * P}
    assert costs["RNV"].ops == {"mul": F * M1 * P, "add": F * M1 * P}
    assert [name for name, cost in costs.items() if cost.matmul] == ["QK", "SLNV"]


def test_causal_counts_are_the_pairs_below_the_diagonal() -> None:
    found = counts("flash_attention_2_causal")
    assert found["exp"].at({"M": 10, "M1": 5, "M0": 2, "P": 10}) == 10 * 11 // 2 + 5 * 10
    assert str(found["mul_add"]) == "E*M^2/2 + F*M^2/2 + E*M/2 + F*M/2"


def test_dead_einsums_cost_nothing() -> None:
    text = "input A[M]\nX[m] = exp(A[m])\nZ[] = sum(m) A[m]\noutput Z\n"
    assert op_counts(parse(text)) == {"add": M}


def test_what_needs_no_data_is_free() -> None:
    text = "input A[M]\nconst c = sqrt(M)\nZ[m] = A[m] * exp(c * (m + 1))\noutput Z\n"
    assert op_counts(parse(text)) == {"mul": M}


def test_an_own_operator_counts_what_it_is_made_of() -> None:
    text = "input A[M]\ndef swish(x, b) = x * sigmoid(b * x)\nZ[m] = swish(A[m] + 1, 2)\noutput Z\n"
    assert op_counts(parse(text)) == {"add": M, "mul": M + M, "sigmoid": M}


def enumerated(cascade: Cascade, sizes: dict[str, int]) -> dict[str, int]:
    """Executions per operator, point by point."""
    scope, size, total = cascade.scope, bind(cascade, sizes, exact=True), dict[str, int]()

    def coordinate(index: Any, point: dict[str, int]) -> int:
        return sum(point[t.var] * prod(size[r] for r in t.stride) for t in index.terms)

    def run(op: str, names: set[str], filters: Any) -> None:
        order, n = sorted(names), 0
        mine = [f for f in filters if set(index_vars(f.left, f.right)) <= names]
        for values in product(*(range(size[v.upper()]) for v in order)):
            point = dict(zip(order, values, strict=True))
            sides = [(coordinate(f.left, point), f.op, coordinate(f.right, point)) for f in mine]
            n += all({"<=": a <= b, "<": a < b, ">=": a >= b, ">": a > b, "==": a == b}[op] for a, op, b in sides)
        total[op] = total.get(op, 0) + n

    def walk(expr: Expr, filters: Any, skip: bool) -> tuple[set[str], bool]:
        if isinstance(expr, Access):
            return set(index_vars(*expr.indices)), True
        if isinstance(expr, Number):
            return set(), False
        if isinstance(expr, Name):
            return ({expr.name} if expr.name.islower() and expr.name.upper() in size else set()), False
        assert isinstance(expr, Apply)
        parts = [walk(arg, filters, False) for arg in expr.args]
        names, data = set().union(*(p[0] for p in parts)), any(p[1] for p in parts)
        if data and not skip:
            # The library's own operators are phi(x) = elu(x) + 1 and fp8scale(x) = e4m3(x / 6).
            for op in {"phi": ["elu", "add"], "fp8scale": ["divide", "e4m3"]}.get(expr.op, [expr.op]):
                run(op, names, filters)
        return names, data

    for n in scope.live:
        einsum, filters = scope.einsums[n], scope.filters[n]
        fused = einsum.reduce == "sum" and isinstance(einsum.expr, Apply) and einsum.expr.op == "mul"
        walk(einsum.expr, filters, fused)
        if einsum.reduce:
            names = {*index_vars(*einsum.target.indices), *einsum.over}
            run("mul_add" if fused else {"sum": "add", "max": "max"}[einsum.reduce], names, filters)
    return total


@pytest.mark.parametrize("name", sorted(set(cascades.names()) - {"sage_fp4"}))
def test_counts_agree_with_enumeration(name: str) -> None:
    cascade = cascades.load(name)
    scope = cascade.scope
    free = [r for r in scope.ranks if r not in scope.parts and scope.same[r] == r]
    sizes = {rank: 2 + k % 2 for k, rank in enumerate(free)}
    bound = bind(cascade, sizes)
    found = {op: count.at(bound) for op, count in op_counts(cascade).items()}
    assert found == enumerated(cascade, sizes)


@given(n=st.integers(1, 7))
def test_chains_of_filters_count_their_points(n: int) -> None:
    ranks = "input A[N, N, N]\nrank I = N\nrank J = N\nrank K = N\n"
    text = ranks + "Z[] = sum(i, j, k) A[i, j, k] where {}\noutput Z\n"
    for where, holds in {
        "i <= j, j <= k": lambda i, j, k: i <= j <= k,
        "i < j, j <= k": lambda i, j, k: i < j <= k,
        "i < k, j < k": lambda i, j, k: i < k and j < k,
        "i == k": lambda i, j, k: i == k,
    }.items():
        poly = op_counts(parse(text.format(where)))["add"]
        assert poly.at({"N": n}) == sum(holds(*x) for x in product(range(n), repeat=3))


def test_many_bindings_at_once() -> None:
    cascade, rng = cascades.load("flash_attention_2"), np.random.default_rng(0)
    sizes = {rank: rng.integers(1, 4096, 10_000) for rank in ("E", "F", "M", "P")} | {"M0": np.full(10_000, 64)}
    bound = bind(cascade, sizes)
    table = {op: count.at(bound) for op, count in op_counts(cascade).items()}
    one = {rank: int(size[77]) for rank, size in sizes.items()}
    exact = summary(cascade, one)["ops"]
    assert {op: float(row[77]) for op, row in table.items()} == pytest.approx(exact, rel=1e-12)


# Sizes.


def test_a_ragged_last_chunk_is_a_chunk() -> None:
    assert bind(cascades.load("flash_attention_2"), {"E": 1, "F": 1, "P": 1, "M": 1000})["M1"] == 8
    assert bind(cascades.load("flash_attention_2"), {"E": 1, "F": 1, "P": 1, "M": 100})["M0"] == 100


def test_parts_give_the_whole_and_shared_sizes_are_one() -> None:
    causal = cascades.load("flash_attention_2_causal")
    assert bind(causal, {"E": 1, "F": 1, "M1": 3, "M0": 4})["P"] == 12
    with pytest.raises(InputError, match="rank-size conflict: 'M' is 8, but 'M' of the same size is 6"):
        bind(causal, {"E": 1, "F": 1, "P": 6, "M": 8})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"E": 1, "F": 1, "M": 4}, "needs the size of rank P"),
        ({"E": 1, "F": 1, "M": 4, "P": 4, "N": 1}, "unknown rank of cascade 'three_pass' 'N'"),
        ({"E": 0, "F": 1, "M": 4, "P": 4}, "rank 'E' has size 0: expected a whole number of at least 1"),
        ({"E": 1.5, "F": 1, "M": 4, "P": 4}, "rank 'E' has size 1.5"),
    ],
)
def test_bad_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        summary(cascades.load("three_pass"), sizes)


# Polynomials.


def test_a_polynomial_prints_as_people_write_it() -> None:
    assert str((E + F) * M * P) == "E*M*P + F*M*P"
    assert str(M * M * Poly.number(2) + Poly.number(-1) * P) == "2*M^2 - P"
    assert str(Poly()) == "0"
    assert (M * P).renamed({"P": "M"}) == M * M
    assert (M * P).folded("N", ("M", "P")) == Poly.rank("N")
    assert not M + Poly.number(-1) * M


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=3), st.integers(1, 9), st.integers(1, 9))
def test_polynomial_arithmetic_agrees_with_numbers(c: list[int], m: int, p: int) -> None:
    left = Poly.number(c[0]) * M + Poly.number(c[1]) * P
    right = M * P + Poly.number(c[2])
    sizes = {"M": m, "P": p}
    assert (left * right).at(sizes) == left.at(sizes) * right.at(sizes)
    assert (left + right).at(sizes) == left.at(sizes) + right.at(sizes)
    assert left * right == right * left
