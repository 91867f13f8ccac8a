"""Tunings in the forms that other programs read: one module for each form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ...errors import InputError, unknown
from ...files import write_whole
from ..result import Tuning
from . import flex, json, natten, serving, t4, triton

#: form -> (what it is, the kernel whose tunings it writes or None for any, the writer).
_WRITERS: Final[dict[str, tuple[str, str | None, Callable[[Sequence[Tuning]], str]]]] = {
    "triton": ("a Python module of triton.Config, with a model to prune by", "triton", triton.text),
    "flex": ("a Python module with FlexAttention's kernel_options", "flex", flex.text),
    "natten": ("a Python module with NATTEN's tile shapes", "natten", natten.text),
    "serving": ("a tuned file as serving engines keep them", None, serving.text),
    "t4": ("Kernel Tuner's T4 results", None, t4.text),
    "json": ("plain JSON", None, json.text),
}
#: form -> what it is.
FORMATS: Final = {form: what for form, (what, _, _) in _WRITERS.items()}
#: form -> the kernel whose tunings it writes, where it is one alone.
KERNEL_OF: Final = {form: kernel for form, (_, kernel, _) in _WRITERS.items() if kernel is not None}
_ONE: Final = ("triton", "flex", "natten")


def formatted(tunings: Sequence[Tuning], form: str) -> str:
    """Tunings as text in one of ``FORMATS``.

    Raises InputError for an unknown form, no tuning, several where a form holds one, or tunings of a kernel that it is not
    for.
    """
    if form not in _WRITERS:
        raise unknown("format", form, _WRITERS)
    _, kernel, writer = _WRITERS[form]
    if not tunings or (form in _ONE and len(tunings) > 1):
        wanted = "one" if form in _ONE else "one or more"
        raise InputError(f"format {form!r} cannot hold {len(tunings)} tunings: expected {wanted}")
    for tuning in tunings:
        if kernel is not None and tuning.kernel != kernel:
            raise InputError(f"format {form!r} cannot hold a tuning of {tuning.kernel!r}: expected kernel {kernel!r}")
    return writer(tunings)


def write(tunings: Sequence[Tuning], form: str, target: str | Path) -> list[Path]:
    """Write tunings to ``target``, each file whole or not at all, and return the files.

    With form "serving" a ``target`` that does not end in .json is a folder: one file for each kernel, GPU and dtype goes
    there under the name it is looked up by, and keeps what it already held of other problems. Raises InputError, also for
    what cannot be written.
    """
    path = Path(target)
    files = {path: tunings}
    folder = form == "serving" and path.suffix != ".json"
    if folder:
        names: dict[str, list[Tuning]] = {}
        for tuning in tunings:
            names.setdefault(serving.name_of(tuning), []).append(tuning)
        files = {path / name: group for name, group in names.items()}
    texts = {file: formatted(group, form) for file, group in files.items()}
    for file, text in texts.items():
        _write(file, serving.merged(file, text) if folder else text, make_folder=folder)
    return list(texts)


def _write(path: Path, text: str, make_folder: bool) -> None:
    if make_folder:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InputError(f"cannot write {str(path)!r}: {problem.strerror or problem}") from None
    write_whole(path, text.encode())
