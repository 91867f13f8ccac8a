"""The notation: it prints back, and every mistake gets one sentence with its line and column."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import attncast.simulator.einsum
from attncast.errors import InputError
from attncast.simulator import cascades
from attncast.simulator.einsum import difference, evaluate, op_counts, parse, show, summary

HEAD = "input Q[E, P], K[E, M]\n"


def test_spacing_is_normalised_and_comments_stay() -> None:
    text = "# top\n\ninput  A[M]#in\n  Z[m]=-(A[m]+1)*2/( A[m]-3 )   # the map\noutput Z\n"
    printed = show(parse(text))
    assert printed == "# top\n\ninput A[M]  #in\nZ[m] = -(A[m] + 1) * 2 / (A[m] - 3)  # the map\noutput Z\n"
    assert show(parse(printed)) == printed


@pytest.mark.parametrize(
    "expr",
    [
        "A[m] - (A[m] - 1)",
        "A[m] / (A[m] * 2)",
        "A[m] / A[m] * 2",
        "-(A[m] * 2)",
        "-A[m] * -2",
        "A[m] - -1",
        "max(A[m], -inf)",
        "max(A[m], 1) * 2",
        "select(greater(A[m], 0.5), pow(A[m], 2), 1e-09)",
        "(1 - A[m]) * (m + 1) / M",
    ],
)
def test_expressions_print_back(expr: str) -> None:
    text = f"input A[M]\nZ[m] = {expr}\noutput Z\n"
    cascade = parse(text)
    assert show(cascade) == text
    x = np.array([0.3, 1.5, 2.5])
    names = {"inf": np.inf, "max": np.maximum, "pow": np.power, "select": np.where, "greater": np.greater}
    expected = eval(expr.replace("A[m]", "x"), {"x": x, "m": np.arange(3), "M": 3, **names})
    np.testing.assert_allclose(evaluate(cascade, {"A": x})["Z"], expected)


def test_equality_ignores_places_but_not_structure() -> None:
    text = HEAD + "Z[m, p] = sum(e) Q[e, p] * K[e, m]\noutput Z\n"
    assert parse(text) == parse(text.replace(" * ", "   *  "))
    assert parse(text) != parse(text.replace("sum", "max"))
    assert dataclasses.replace(parse(text), name="x") != parse(text)


def test_the_example_of_the_notation_page_is_a_cascade() -> None:
    page = (Path(attncast.simulator.einsum.__file__).parent / "NOTATION.md").read_text(encoding="utf-8")
    example = page.split("```")[1].strip() + "\n"
    assert len(example.splitlines()) < 20
    cascade = parse(example, "mine")
    assert summary(cascade)["passes"]["M"] == 2
    assert difference(cascade, cascades.load("three_pass"), {"E": 4, "F": 3, "M": 8, "P": 5}) < 1e-12


def test_every_statement_may_come_before_what_it_needs() -> None:
    lines = show(cascades.load("flash_attention_2")).splitlines()
    backwards = parse("\n".join(reversed(lines)))
    assert op_counts(backwards) == op_counts(cascades.load("flash_attention_2"))


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        (
            "Z[m, p] = sum(e) exq(Q[e, p]) * K[e, m]",
            (2, 18),
            "unknown operator 'exq': .*; did you mean 'exp'?",
        ),
        ("Z[m, p] = sum(e) exp(Q[e, p], 1) * K[e, m]", (2, 18), "operator 'exp' takes 1 operands, here 2"),
        ("Z[m] = sum(e, p) Q[e, p] * KK[e, m]", (2, 28), "unknown tensor 'KK': .*; did you mean 'K'?"),
        (
            "Z[m, p] = sum(e) Q[e, p] * K[m, e]",
            (2, 30),
            "rank-size conflict: 'K' has rank 'E' here, not 'M'; if ",
        ),
        ("Z[m, p] = sum(e) Q[e, p] * K[e]", (2, 28), "'K' has 2 ranks \\(E, M\\), here 1"),
        ("Z[m, x] = sum(e) Q[e, x] * K[e, m]", (2, 6), "unknown rank 'X': expected one of E, M, P"),
        ("Z[m] = sum(e) Q[e, p] * K[e, m]", (2, 1), "variable 'p' is on the right of 'Z', but neither"),
        ("Z[m, p] = sum(m) K[e, m]", (2, 1), "'m' is reduced but stands on the left of 'Z'"),
        ("Z[m] = sum(e, p) K[e, m]", (2, 1), "'p' is reduced but nothing on the right of 'Z' has it"),
        ("Z[m] = sum(e) K[e, m] * scale", (2, 25), "unknown constant, rank or variable 'scale'"),
        (
            "Z[m] = sum(e) K[e, m] *",
            (2, 24),
            "expected a tensor, constant, number or operator, found 'end of",
        ),
        ("Z[m] = sum(e) K[e, m", (2, 21), "expected ']', found 'end of line'"),
        ("Z[m] = sum(e) K[e, m] ? 2", (2, 23), "unexpected character '\\?'"),
        (
            "Z[m] = sum(e) K[e, m] where m <= e",
            (2, 29),
            "rank-size conflict: the filter compares 'M' with 'E'",
        ),
        ("Z[m] = sum(e) K[e, m] where m <= 3", (2, 34), "a filter compares rank variables, such as 'm <= p'"),
        ("Z[e] = sum(m) K[e, m]\nZ[e] = sum(p) Q[e, p]", (3, 1), "tensor 'Z' is defined twice"),
        ("Q[e, p] = 1\nZ[e] = sum(m) K[e, m]", (2, 1), "tensor 'Q' is an input, so no Einsum may define it"),
        ("input K[E]\nZ[e] = sum(m) K[e, m]", (2, 7), "tensor 'K' is declared twice"),
        (
            "Y[m] = Z[m] + 1\nZ[m] = Y[m] * 2",
            (2, 1),
            "cyclic definition: Y -> Z -> Y, with no iterative rank",
        ),
        ("Z[m] = Z[m] * 2", (2, 1), "cyclic definition: Z -> Z"),
        (
            "Z[m+1] = Z[m] + sqrt(m)\niterate m until m == M",
            (2, 1),
            "tensor 'Z' is read before its initialisation",
        ),
        ("Z[0] = 0\nY[m] = Z[m]", (2, 1), "tensor 'Z' is initialised but no line"),
        (
            "Z[0] = 0\nZ[m+1] = Z[m] + m",
            (3, 1),
            "'Z' iterates 'm' with no stop condition: add a line 'iterate m",
        ),
        (
            "Z[0] = 0\nZ[m+1] = Z[m] + Z[M]\niterate m until m == M",
            (3, 17),
            "cyclic definition: 'Z' is read whole",
        ),
        (
            "Z[0] = 0\nZ[m+1] = Z[m] + Y[]\nY[] = sum(m) Z[m]\niterate m until m == M",
            (3, 17),
            "cyclic definition: 'Y'",
        ),
        ("Z[e] = K[e, M]", (2, 13), "'M' is past the end of 'K': only an iterative rank has it"),
        ("Z[e, m] = K[e, m+1]", (2, 16), "an offset of \\+1 is only for the iterative rank"),
        ("Z[e] = sum(m1) K[e, m1*M0]\nrank M = M1*M0", (2, 21), "expected a variable or a whole partition"),
        ("rank M = M\nZ[e] = sum(m) K[e, m]", (2, 1), "the size of rank 'M' is given twice or by itself"),
        (
            "rank M = P\nrank P = M\nZ[e] = sum(m) K[e, m]",
            (2, 1),
            "cyclic definition of the size of rank 'M'",
        ),
        (
            "rank M = A*B\nrank A = M*C\nZ[e] = sum(m) K[e, m]",
            (2, 1),
            "cyclic definition of the size of rank 'M'",
        ),
        ("rank M default x\nZ[e] = sum(m) K[e, m]", (2, 16), "expected a positive whole number, found 'x'"),
        ("inptu A[M]\nZ[e] = sum(m) K[e, m]", (2, 1), "expected an Einsum .*; did you mean 'input'?"),
        ("def exp(x) = x * 2\nZ[e] = sum(m) K[e, m]", (2, 1), "operator 'exp' exists already"),
        ("def f(x) = f(x)\nZ[e] = sum(m) K[e, m]", (2, 12), "unknown operator 'f'"),
        ("const c = Q[e, p]\nZ[e] = sum(m) K[e, m]", (2, 11), "tensor 'Q' cannot be read here"),
        ("const m = 2\nZ[e] = sum(m) K[e, m]", (2, 1), "constant 'm' has the name of a rank"),
        ("Z[m, m] = sum(e) K[e, m]", (2, 1), "a variable occurs twice on the left of 'Z'"),
    ],
)
def test_mistakes_are_placed(body: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(HEAD + body + "\noutput Z\n", "mine")
    found = re.match(r"mine, line (\d+), column (\d+): ", str(caught.value))
    assert found
    assert (int(found[1]), int(found[2])) == place
    assert "\n" not in str(caught.value)


def test_an_output_is_needed_and_must_exist() -> None:
    with pytest.raises(InputError, match="no line 'output TENSOR'"):
        parse("input A[M]\nZ[m] = A[m]\n")
    with pytest.raises(InputError, match="line 3, column 8: unknown output tensor 'Y'"):
        parse("input A[M]\nZ[m] = A[m]\noutput Y\n")


# The library's loader.


def test_load_by_name_or_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.cascade"
    file.write_text("input A[M]\nZ[] = sum(m) A[m]\noutput Z\n", encoding="utf-8")
    assert cascades.load(str(file)).name == "mine"
    assert cascades.load("naive") is cascades.load("naive")
    with pytest.raises(InputError, match=r"unknown cascade 'flash_atention_2': .*did you mean 'flash_attention_2'"):
        cascades.load("flash_atention_2")
    with pytest.raises(InputError, match="cannot read cascade file"):
        cascades.load(str(tmp_path / "none.cascade"))


def test_an_unknown_reduce_action_is_named() -> None:
    with pytest.raises(InputError, match=r"line 2, column 8: unknown reduce action 'summ'.*did you mean 'sum'"):
        parse("input Q[E, P]\nZ[p] = summ(e) Q[e, p]\noutput Z\n")
