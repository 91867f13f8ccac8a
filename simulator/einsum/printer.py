"""A cascade back to its text: ``parse(show(c))`` equals ``c``, and text in canonical spacing is unchanged."""

from __future__ import annotations

from .ir import (
    Access,
    Cascade,
    Const,
    Define,
    Einsum,
    Expr,
    Filter,
    Index,
    Input,
    Iterate,
    Name,
    Number,
    Output,
    Rank,
    Statement,
)
from .operators import INFIX

_SYMBOLS = {op: (symbol, binds) for symbol, (op, binds) in INFIX.items()}
_TIGHTEST = 3


def show(cascade: Cascade) -> str:
    """The cascade's text, one statement a line, comments in their places."""
    lines = []
    for line in cascade.lines:
        code = "" if line.statement is None else show_statement(line.statement)
        comment = "" if line.comment is None else f"#{line.comment}"
        lines.append(f"{code}  {comment}" if code and comment else code + comment)
    return "\n".join(lines) + "\n"


def show_statement(statement: Statement) -> str:
    """One statement's text, without its comment."""
    match statement:
        case Einsum(target, expr, reduce, over, where):
            action = f"{reduce}({', '.join(over)}) " if reduce else ""
            keep = f" where {', '.join(show_filter(f) for f in where)}" if where else ""
            return f"{show_expr(target)} = {action}{show_expr(expr)}{keep}"
        case Rank(name, parts, default):
            made = f" = {'*'.join(parts)}" if parts else ""
            return f"rank {name}{made}" + (f" default {default}" if default is not None else "")
        case Const(name, value):
            return f"const {name} = {show_expr(value)}"
        case Define(name, params, body):
            return f"def {name}({', '.join(params)}) = {show_expr(body)}"
        case Input(tensors):
            return "input " + ", ".join(f"{t.name}[{', '.join(t.ranks)}]" for t in tensors)
        case Iterate(var, stop):
            return f"iterate {var} until {var} == {stop}"
        case Output(names):
            return "output " + ", ".join(n.name for n in names)


def show_filter(keep: Filter) -> str:
    """A filter's text."""
    return f"{show_index(keep.left)} {keep.op} {show_index(keep.right)}"


def show_index(index: Index) -> str:
    """A coordinate's text."""
    if index.last is not None:
        return index.last
    terms = ["*".join((term.var, *term.stride)) for term in index.terms]
    return "+".join(terms + ([str(index.offset)] if index.offset or not terms else []))


def show_expr(expr: Expr, tightness: int = 1) -> str:
    """An expression's text, in parentheses if it binds less tightly than ``tightness``."""
    match expr:
        case Access(tensor, indices):
            return f"{tensor}[{', '.join(show_index(i) for i in indices)}]"
        case Name(name):
            return name
        case Number(value):
            text = str(int(value)) if value.is_integer() else repr(value)
            return f"({text})" if value < 0 and tightness > _TIGHTEST else text
    if expr.op in _SYMBOLS:
        symbol, binds = _SYMBOLS[expr.op]
        left, right = expr.args
        text = f"{show_expr(left, binds)} {symbol} {show_expr(right, binds + 1)}"
        return f"({text})" if binds < tightness else text
    if expr.op == "neg":
        return "-" + show_expr(expr.args[0], _TIGHTEST)
    return f"{expr.op}({', '.join(show_expr(arg) for arg in expr.args)})"
