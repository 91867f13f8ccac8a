"""Text to a checked cascade. The notation is described in NOTATION.md, next to this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...errors import InputError, suggest, unknown
from .ir import (
    Access,
    Apply,
    Cascade,
    Const,
    Define,
    Einsum,
    Expr,
    Filter,
    Index,
    Input,
    Iterate,
    Line,
    Name,
    Number,
    Output,
    Rank,
    Statement,
    Tensor,
    Term,
)
from .lexer import Token, error, tokens
from .operators import INFIX, REDUCERS
from .scope import resolve

_COMPARISONS = ("<=", "<", ">=", ">", "==")
_KEYWORDS = ("rank", "const", "def", "input", "iterate", "output")
_Item = TypeVar("_Item")


def parse(text: str, name: str = "cascade") -> Cascade:
    """Parse a cascade and check it; sizes are bound later.

    Args:
        text: the cascade, in the notation of NOTATION.md.
        name: what to call it, in results and in errors.

    Raises:
        InputError: one sentence with the line and column, for anything the notation or the checks refuse.
    """
    lines = []
    for number, raw in enumerate(text.splitlines(), start=1):
        code, mark, comment = raw.partition("#")
        statement = _Parser(name, tokens(name, number, code)).statement() if code.strip() else None
        lines.append(Line(statement, comment.rstrip() if mark else None))
    return Cascade(name, tuple(lines), resolve(name, tuple(lines)))


class _Parser:
    """Recursive descent over the tokens of one line."""

    def __init__(self, source: str, line: list[Token]) -> None:
        self.source = source
        self.line = line
        self.position = 0
        self.token = line[0]

    def peek(self, ahead: int = 1) -> Token:
        return self.line[min(self.position + ahead, len(self.line) - 1)]

    def expected(self, what: str, hint: str = "") -> InputError:
        return error(self.source, self.token.at, f"expected {what}, found {self.token.text!r}{hint}")

    def take(self) -> Token:
        token = self.token
        if token.kind != "end":
            self.position += 1
            self.token = self.line[self.position]
        return token

    def mark(self, text: str) -> Token:
        if self.token.text != text or self.token.kind == "end":
            raise self.expected(repr(text))
        return self.take()

    def try_mark(self, text: str) -> bool:
        if self.token.text == text and self.token.kind != "end":
            self.take()
            return True
        return False

    def word(self, what: str) -> Token:
        if self.token.kind != "word":
            raise self.expected(what)
        return self.take()

    def rank_name(self) -> str:
        if self.token.kind != "word" or self.token.text != self.token.text.upper():
            raise self.expected("a rank in upper case")
        return self.take().text

    def variable(self) -> str:
        if self.token.kind != "word" or self.token.text != self.token.text.lower():
            raise self.expected("a rank variable in lower case")
        return self.take().text

    def separated(self, item: Callable[[], _Item]) -> tuple[_Item, ...]:
        found = [item()]
        while self.try_mark(","):
            found.append(item())
        return tuple(found)

    def statement(self) -> Statement:
        first = self.token
        if first.text in _KEYWORDS and self.peek().text != "[":
            self.take()
            parsed: Statement = getattr(self, "_" + first.text)(first)
        elif first.kind == "word" and self.peek().text == "[":
            parsed = self._einsum()
        else:
            hint = suggest(first.text, _KEYWORDS)
            raise self.expected(f"an Einsum such as 'Z[m] = ...' or one of {', '.join(_KEYWORDS)}", hint)
        if self.token.kind != "end":
            raise self.expected("the end of the line")
        return parsed

    def _rank(self, first: Token) -> Rank:
        name, parts, default = self.rank_name(), [], None
        if self.try_mark("="):
            parts.append(self.rank_name())
            while self.try_mark("*"):
                parts.append(self.rank_name())
        if self.token.text == "default":
            self.take()
            if self.token.kind != "number" or not self.token.text.isdigit() or int(self.token.text) < 1:
                raise self.expected("a positive whole number")
            default = int(self.take().text)
        if not parts and default is None:
            raise self.expected("'= RANK', '= RANK*RANK' or 'default NUMBER'")
        return Rank(name, tuple(parts), default, first.at)

    def _const(self, first: Token) -> Const:
        name = self.word("a constant's name").text
        self.mark("=")
        return Const(name, self.expression(), first.at)

    def _def(self, first: Token) -> Define:
        name = self.word("an operator's name").text
        self.mark("(")
        params = self.separated(lambda: self.word("a parameter").text)
        self.mark(")")
        self.mark("=")
        return Define(name, params, self.expression(), first.at)

    def _input(self, first: Token) -> Input:
        return Input(self.separated(self._tensor))

    def _tensor(self) -> Tensor:
        name = self.word("a tensor")
        self.mark("[")
        ranks = () if self.token.text == "]" else self.separated(self.rank_name)
        self.mark("]")
        return Tensor(name.text, ranks, name.at)

    def _iterate(self, first: Token) -> Iterate:
        var = self.variable()
        if self.token.text != "until":
            raise self.expected("'until'")
        self.take()
        if self.token.text != var:
            raise self.expected(f"the stop condition '{var} == RANK'")
        self.take()
        self.mark("==")
        return Iterate(var, self.rank_name(), first.at)

    def _output(self, first: Token) -> Output:
        names = self.separated(lambda: self.word("a tensor"))
        return Output(tuple(Name(token.text, token.at) for token in names))

    def _einsum(self) -> Einsum:
        target = self._access()
        self.mark("=")
        reduce, over = None, tuple[str, ...]()
        if self._reduces():
            reduce = self.take().text
            self.mark("(")
            over = self.separated(self.variable)
            self.mark(")")
        expr = self.expression()
        where: tuple[Filter, ...] = ()
        if self.token.text == "where":
            self.take()
            where = self.separated(self._filter)
        return Einsum(target, expr, reduce, over, where)

    def _reduces(self) -> bool:
        """Whether a reduce action follows: ``max(m) X`` is one, ``max(a, b)`` or ``max(a, b) * X`` is not."""
        if self.token.kind != "word" or self.peek().text != "(":
            return False
        ahead = 2
        while self.peek(ahead).kind == "word" and self.peek(ahead + 1).text == ",":
            ahead += 2
        closed = self.peek(ahead).kind == "word" and self.peek(ahead + 1).text == ")"
        follows = self.peek(ahead + 2)
        operand = follows.kind == "number" or (follows.kind == "word" and follows.text != "where")
        if closed and operand and self.token.text not in REDUCERS:
            raise error(self.source, self.token.at, str(unknown("reduce action", self.token.text, REDUCERS)))
        return closed and self.token.text in REDUCERS and (operand or follows.text in ("(", "-"))

    def _filter(self) -> Filter:
        at, left = self.token.at, self._index()
        if self.token.text not in _COMPARISONS:
            raise self.expected(f"one of {' '.join(_COMPARISONS)}")
        op = self.take().text
        return Filter(left, op, self._index(), at)

    def _access(self) -> Access:
        name = self.word("a tensor")
        self.mark("[")
        indices = () if self.token.text == "]" else self.separated(self._index)
        self.mark("]")
        return Access(name.text, indices, name.at)

    def _index(self) -> Index:
        at, first = self.token.at, self.token.text
        if self.token.kind == "word" and first == first.upper():
            return Index(last=self.rank_name(), at=at)
        terms, offset = [], 0
        while True:
            if self.token.kind == "number" and self.token.text.isdigit():
                offset += int(self.take().text)
            elif self.token.kind == "word":
                var, stride = self.variable(), []
                while self.try_mark("*"):
                    stride.append(self.rank_name())
                terms.append(Term(var, tuple(stride)))
            else:
                raise self.expected("a coordinate such as 'm', 'm1*M0+m0', 'm1+1' or '0'")
            if not self.try_mark("+"):
                return Index(tuple(terms), offset, at=at)

    def expression(self, tightness: int = 1) -> Expr:
        left = self._unary()
        while self.token.kind == "mark" and self.token.text in INFIX and INFIX[self.token.text][1] >= tightness:
            token = self.take()
            op, binds = INFIX[token.text]
            left = Apply(op, (left, self.expression(binds + 1)), token.at)
        return left

    def _unary(self) -> Expr:
        at = self.token.at
        if not self.try_mark("-"):
            return self._atom()
        operand = self._unary()
        return Number(-operand.value) if isinstance(operand, Number) else Apply("neg", (operand,), at)

    def _atom(self) -> Expr:
        if self.token.kind == "number":
            return Number(float(self.take().text))
        if self.try_mark("("):
            inner = self.expression()
            self.mark(")")
            return inner
        if self.token.kind != "word":
            raise self.expected("a tensor, constant, number or operator")
        if self.peek().text == "[":
            return self._access()
        name = self.take()
        if name.text == "inf":
            return Number(float("inf"))
        if not self.try_mark("("):
            return Name(name.text, name.at)
        args = self.separated(self.expression)
        self.mark(")")
        return Apply(name.text, args, name.at)
