"""Fitted constants of a kernel on a GPU: what they mean, between which bounds, and how a prediction takes them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, suggest
from ..hwmodels import GPU
from .conditions import Conditions
from .evidence import Seen, outside, parse_seen
from .patterns import Pattern
from .profile import DECODE_QUERIES, KernelProfile, load_profile
from .tiles import Floats
from .workload import DTYPE_BYTES, Workload

PACKAGED: Final = Path(__file__).parent / "calibrated.toml"


@dataclass(frozen=True)
class Bounds:
    """Physical bounds of a constant, and what it means."""

    low: float
    high: float
    meaning: str


# A fit takes six of them or fewer (see validation.calibrate).
BOUNDS: Final[dict[str, Bounds]] = {
    "overlap": Bounds(
        0.01, 5.0, "a in cycles = max(pipes) + a (sum(pipes) - max(pipes)): 0 perfect overlap, 1 none, more: stalls"
    ),
    "round_trips": Bounds(0.3, 60.0, "memory latencies one after the other in a CTA's life"),
    "tile_round_trips": Bounds(0.01, 5.0, "memory latencies for each load that a KV tile is waited for with"),
    "dram_efficiency": Bounds(0.05, 1.0, "DRAM bandwidth reached over the physical peak"),
    "query_rate": Bounds(0.3, 64.0, "bytes per clock of an SM at which a pass of its own quantises queries"),
    "rotation_efficiency": Bounds(0.05, 1.0, "L2 bandwidth reached by the pass that rotates queries, over the L2's"),
    "call_s": Bounds(1e-7, 3e-5, "seconds of a serving engine's call beyond its launches"),
    "sequence_s": Bounds(1e-12, 5e-8, "seconds of such a call for each sequence"),
    "key_s": Bounds(1e-12, 5e-8, "seconds of such a call for each new key (token and head), beyond its bytes"),
}
OF_GPU: Final = ("dram_efficiency",)  # the others are of the profile


@dataclass(frozen=True, order=True)
class Use:
    """What constants are for: a kernel on a GPU as one engine runs it, in one phase, with one kind of dtypes.

    A kernel's prefill and decoding, and its 16-bit and 8-bit forms, are different programs of one name.

    Attributes:
        gpu, kernel: keys of a hardware model and a kernel profile. engine: see Conditions; "" for the kernel alone.
        phase: "prefill", or "decode" (see KernelProfile.decodes), and " (older program)" where that of an older architecture
            runs it.
        dtype: of the products, and of the cache where it differs: "16-bit", "8-bit", "16-bit on 8-bit".
    """

    gpu: str
    kernel: str
    engine: str
    phase: str
    dtype: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.gpu, self.kernel, self.engine, self.phase, self.dtype) if part)


def use_of(gpu: GPU, kernel: str, workload: Workload, engine: str) -> Use:
    """The use that a call is."""
    decodes = workload.tokens <= DECODE_QUERIES
    if decodes and not workload.cached:  # a prompt of a few tokens: some engines run it as they run any other
        decodes = load_profile(kernel, gpu, engine).decodes(workload.tokens, 0)
    phase = "decode" if decodes else "prefill"
    if not engine and load_profile(kernel, gpu).runs_older(workload):
        phase += " (older program)"
    bits, kv_bits = (int(8 * DTYPE_BYTES[dtype]) for dtype in (workload.dtype, workload.kv_dtype or workload.dtype))
    return Use(gpu.key, kernel, engine, phase, f"{bits}-bit" if bits == kv_bits else f"{bits}-bit on {kv_bits}-bit")


@dataclass(frozen=True)
class Constants:
    """Constants of one use, and what they were fitted on.

    Attributes:
        values: by name, see BOUNDS; those that are not here keep their priors.
        interval: half width of log(time) that held 80% of the rows left out of the fit.
        rows, held_out_mape: rows fitted on, and the mean error on rows that no constant saw (cross-validation by shape).
        data, date, command: what they were fitted on, when, and by which command.
        portable: what another GPU may take over: a fit that keeps near the priors where the rows say little, and near the
            GPU's own DRAM efficiency.
        left_out_interval: as ``interval``, of the rows forecast by other GPUs' portable constants (0: none has any).
        seen: what the rows span; None where a file does not say.
    """

    values: Mapping[str, float]
    interval: float
    rows: int
    held_out_mape: float
    data: str
    date: str
    command: str
    portable: Mapping[str, float] = field(default_factory=dict)
    left_out_interval: float = 0.0
    seen: Seen | None = None

    def apply(self, profile: KernelProfile, gpu: GPU) -> tuple[KernelProfile, GPU]:
        """The profile and the GPU with these constants."""
        profile, gpu = with_constants(profile, gpu, self.values)
        source = f"fitted on {self.rows} rows of {self.data}, {self.date}"
        return replace(profile, overlap_source=source, interval=self.interval), gpu


def with_constants(profile: KernelProfile, gpu: GPU, values: Mapping[str, float | Floats]) -> tuple[KernelProfile, GPU]:
    """The profile and the GPU with some values of BOUNDS in place of their priors, or arrays of one for each call."""
    # A fit asks for this some twenty thousand times: copies that are changed before anybody has seen them, where replace()
    # would check a GPU's figures again.
    profile, gpu = copy(profile), copy(gpu)
    for name, value in values.items():
        object.__setattr__(gpu if name in OF_GPU else profile, name, value)
    return profile, gpu


def query_pass(rotates: bool, quantises: bool) -> str:
    """The constant that says how fast a call goes over its queries before attention; "" where it does not."""
    return "rotation_efficiency" if rotates else "query_rate" if quantises else ""


def told_constants(profile: KernelProfile, appends: bool, over_queries: str, waits: bool = True) -> list[str]:
    """The constants that calls of a kernel can tell: six at most.

    An engine's call has its own costs: ``appends`` where it writes new keys to a cache, ``over_queries`` the constant of
    what goes over the queries (see ``query_pass``). How fast that is matters more than what a sequence costs. ``waits`` where a
    chain of loads is waited for.
    """
    names = ["overlap", "round_trips", "dram_efficiency"]
    if appends:
        names += ["call_s", "key_s"]
    if over_queries:
        names.append(over_queries)
    elif profile.chain == "loads" and waits:
        names.append("tile_round_trips")
    elif appends:
        names.append("sequence_s")
    return names


@dataclass(frozen=True)
class Calibration:
    """Constants by use; hashable by its file, for caches."""

    path: str
    constants: Mapping[Use, Constants]

    def __hash__(self) -> int:
        return hash(self.path)

    def apply(
        self, profile: KernelProfile, gpu: GPU, workload: Workload, conditions: Conditions
    ) -> tuple[KernelProfile, GPU, str]:
        """The profile and the GPU with the constants of this use, and a note.

        Where there are none, those that other GPUs' fits say; where they say nothing, the priors.
        """
        use = use_of(gpu, profile.key, workload, conditions.engine)
        found = self.constants.get(use)
        if found is not None:
            note = f"Constants of {use}: off by {found.held_out_mape:.0%} on held-out shapes."
            return (*found.apply(profile, gpu), note)
        from .carry import carried_constants, carried_interval  # here, not above: it loads the others' profiles

        names = told_constants(profile, conditions.appends, query_pass(conditions.rotates, conditions.quantises))
        carried = carried_constants(use, profile, names, {u: fit.portable for u, fit in self.constants.items()})
        if carried is None:
            return profile, gpu, f"No fitted constants for {use}: priors, whose interval is a guess."
        profile, gpu = with_constants(profile, gpu, carried)
        interval = carried_interval(use, self.constants)
        profile = replace(
            profile,
            overlap_source=f"carried over from other GPUs' fits ({self.path})",
            interval=profile.interval if interval is None else interval,
        )
        return profile, gpu, f"No fitted constants for {use}: carried over from other GPUs."

    def outside(self, use: Use, workload: Workload, pattern: Pattern, time_s: float) -> str:
        """In what a call lies outside of the runs that its constants were fitted on, a sentence; empty where it does not."""
        found = self.constants.get(use)
        return outside(found.seen, workload, pattern, time_s) if found is not None and found.seen is not None else ""


@lru_cache(maxsize=1)
def packaged_calibration() -> Calibration:
    """The constants that come with attncast (see calibrated.toml for data, date and command)."""
    return load_calibration(str(PACKAGED))


def load_calibration(path: str) -> Calibration:
    """Read a file that ``attncast calibrate`` wrote.

    Raises:
        InputError: no such file, no TOML, an unknown or missing entry, or a constant out of its bounds.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read calibration {path!r}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"calibration {path!r} is not TOML: {problem}") from None
    fits = document.get("fit")
    if not isinstance(fits, list) or not all(isinstance(table, dict) for table in fits) or len(document) != 1:
        raise InputError(f"calibration {path!r}: expected nothing but tables [[fit]]")
    found = {}
    for number, table in enumerate(fits, 1):
        where = f"calibration {path!r}, fit {number}"
        use = Use(**{item.name: _text(table, item.name, where) for item in fields(Use)})
        found[use] = _constants(table, where)
    return Calibration(path, found)


def _constants(table: Mapping[str, Any], where: str) -> Constants:
    about = {item.name: str(item.type) for item in fields(Constants) if item.name not in _OWN_KIND}
    known = [*BOUNDS, *about, *_OWN_KIND[1:], *(item.name for item in fields(Use))]
    for name in table:
        if name not in known:
            raise InputError(f"{where}: unknown entry {name!r}{suggest(name, known)}")
    read: dict[str, Any] = {
        name: _text(table, name, where) if kind == "str" else _number(table, name, where)
        for name, kind in about.items()
    }
    # Files from before GPUs took over each other's constants have none for that, and older ones do not say what they saw.
    portable = table.get("portable", {})
    if not isinstance(portable, dict):
        raise InputError(f"{where}: portable is {portable!r}, expected a table of constants")
    for name in portable:
        if name not in BOUNDS:
            raise InputError(f"{where}: unknown entry {name!r} in portable{suggest(name, [*BOUNDS])}")
    return Constants(
        _values(table, where),
        **{**read, "rows": int(read["rows"])},
        portable=_values(portable, f"{where}, portable"),
        left_out_interval=_number(table, "left_out_interval", where) if "left_out_interval" in table else 0.0,
        seen=parse_seen(_text(table, "seen", where), where) if "seen" in table else None,
    )


_OWN_KIND: Final = (
    "values",
    "portable",
    "left_out_interval",
    "seen",
)  # not simply a text or a number that must be there


def _values(table: Mapping[str, Any], where: str) -> dict[str, float]:
    values = {name: _number(table, name, where) for name in BOUNDS if name in table}
    for name, value in values.items():
        bounds = BOUNDS[name]
        if not bounds.low * 0.999 <= value <= bounds.high * 1.001:
            raise InputError(f"{where}: {name} is {value:g}, expected {bounds.low:g} to {bounds.high:g}")
    return values


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = _entry(table, name, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: {name} is {value!r}, expected text")
    return value


def _number(table: Mapping[str, Any], name: str, where: str) -> float:
    value = _entry(table, name, where)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{where}: {name} is {value!r}, expected a number")
    return float(value)


def _entry(table: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in table:
        raise InputError(f"{where} has no {name!r}")
    return table[name]


def calibration_text(constants: Mapping[Use, Constants]) -> str:
    """The TOML of some constants."""
    lines = ["# Fitted constants; written by `attncast calibrate`, not by hand.", "#"]
    lines += [f"# {name}: {bounds.meaning} ({bounds.low:g} to {bounds.high:g})" for name, bounds in BOUNDS.items()]
    for use, found in sorted(constants.items()):
        entries: dict[str, object] = {item.name: getattr(use, item.name) for item in fields(Use)}
        entries |= found.values
        entries |= {
            item.name: getattr(found, item.name) for item in fields(Constants) if item.name not in ("values", "seen")
        }
        if found.seen is not None:
            entries["seen"] = str(found.seen)
        lines += ["", "[[fit]]"]
        lines += [f"{name} = {_toml(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        return f'"{escaped}"'
    return f"{value:.5g}" if isinstance(value, float) else str(value)
