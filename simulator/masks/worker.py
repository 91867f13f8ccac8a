"""The process in which a user's mask file runs: it may print, hang, change modules or exit, and only this process has it.

It loads the file, sends the function's graph, and counts blocks on request where the graph does not say it all.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from ...errors import InputError, suggest
from .capture import Real, capture, raised
from .frames import receive, send

MODULE = "attncast_user_mask"


def main(path: str, name: str) -> None:
    """Serve one mask function over the streams this process was started with."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with tempfile.TemporaryFile() as printed, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        # What the file prints must not get into the replies, and it must not wait for typing.
        os.dup2(nothing.fileno(), 0)
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        try:
            function = load(path, name)
            graph = capture(function, name)
            sys.stdout.flush()
            printed.seek(0)
            notes = {"graph": graph.header(), "printed": printed.read(2000).decode(errors="replace")}
            send(replies, notes, {f"t{i}": table for i, table in enumerate(graph.tables)})
            while (request := receive(requests)) is not None:
                header, a = request
                kept = Real(function, name).count(a["b"], a["h"], a["q0"], a["k0"], header["rows"], header["columns"])
                send(replies, {}, {"kept": kept})
        except InputError as error:
            send(replies, {"error": str(error)}, {})
        except SystemExit:
            send(replies, {"error": f"mask file {path!r} exits Python: expected definitions only"}, {})
        except BaseException as error:  # whatever a user's file throws
            send(replies, {"error": str(raised(name, error))}, {})


def load(path: str, name: str) -> Any:
    """The function ``name`` of a Python file, which is run under a name of its own, with its folder on sys.path.

    Raises:
        InputError: the file cannot be read or raises, or has no such function.
    """
    sys.dont_write_bytecode = True  # leave no __pycache__ beside the user's file
    sys.path.insert(0, str(Path(path).resolve().parent))
    loader = importlib.machinery.SourceFileLoader(MODULE, path)
    module = types.ModuleType(MODULE)
    module.__file__ = path
    sys.modules[MODULE] = module
    try:
        loader.exec_module(module)
    except SyntaxError as error:
        where = f"line {error.lineno}" if error.lineno else "it"
        raise InputError(f"mask file {path!r} is no Python: {where}: {error.msg}") from None
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"mask file {path!r} raises {type(error).__name__} while it is loaded: {text}") from None
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not hasattr(module, name):
        mine = [key for key in names if getattr(vars(module)[key], "__module__", MODULE) == MODULE] or names
        listed = f"expected one of {', '.join(sorted(mine)[:12])}" if mine else "it defines no function"
        raise InputError(f"mask file {path!r} has no function {name!r}: {listed}{suggest(name, mine)}")
    return getattr(module, name)
