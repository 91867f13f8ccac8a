"""``attncast accelerator``."""

from __future__ import annotations

import re

import click

from ..errors import InputError
from ..simulator.accelerator import (
    AcceleratorForecast,
    attention,
    binding_names,
    linear_layers,
    load_binding,
    load_transformer,
    transformer_names,
)
from ..simulator.estimate import seconds_text
from . import complete
from .options import json_option
from .output import print_object


@click.command()
@click.option(
    "-a",
    "--architecture",
    required=True,
    metavar="NAME",
    shell_complete=complete.of(binding_names, or_file=True),
    help=f"{', '.join(binding_names())}, or a TOML file that binds a cascade to an accelerator.",
)
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="NAME",
    shell_complete=complete.of(transformer_names),
    help=f"{', '.join(transformer_names())}.",
)
@click.option("-s", "--sequence", required=True, metavar="N", help="Tokens of a sequence, e.g. 65536 or 64K.")
@click.option("--end-to-end", is_flag=True, help="Add the linear layers around attention.")
@json_option
def accelerator(architecture: str, model: str, sequence: str, end_to_end: bool, as_json: bool) -> None:
    """Forecast attention on a spatial accelerator: FLAT, no fusion, or the steps to FuseMax.

    \b
    cascade is FuseMax's algorithm on FLAT's arrays, arch adds its processing elements, binding its schedule.
    Examples:
      attncast accelerator -a binding -m bert -s 65536
      attncast accelerator -a flat -m xlm -s 1M --end-to-end --json
    """
    binding, sizes, tokens = load_binding(architecture), load_transformer(model), parse_length(sequence)
    result = attention(binding, sizes, tokens)
    if end_to_end:
        result = _together(result, linear_layers(binding.accelerator, sizes, tokens))
    if as_json:
        print_object(result.to_dict())
        return
    what = "attention and linear layers" if end_to_end else "attention"
    click.echo(f"{binding.title}: {what} of {sizes.name}, {sizes.B} sequences of {tokens:,} tokens")
    click.echo(f"  latency   {seconds_text(result.latency_s)}")
    click.echo(f"  traffic   {result.traffic_bytes / 1e9:,.2f} GB")
    click.echo(f"  energy    {result.energy_pj / 1e12:,.3f} J")
    click.echo(f"  busy      2-D array {result.util_2d:.1%}, 1-D array {result.util_1d:.1%}")
    click.echo(f"  mapping   {result.mapping}")
    click.echo(f"  hardware  {binding.accelerator.name}; cascade {binding.cascade.name}")


def parse_length(text: str) -> int:
    """``65536``, or ``64K`` and ``1M`` in powers of 1024. InputError quotes what is neither."""
    match = re.fullmatch(r"\s*(\d{1,15})\s*([kKmM]?)\s*", text)
    if match is None:
        raise InputError(f"sequence length {text!r} is not clear: expected a whole number, e.g. 65536 or 64K")
    return int(match[1]) * {"": 1, "k": 2**10, "m": 2**20}[match[2].lower()]


def _together(attention: AcceleratorForecast, linear: AcceleratorForecast) -> AcceleratorForecast:
    """One after the other."""
    seconds = attention.latency_s + linear.latency_s
    return AcceleratorForecast(
        latency_s=seconds,
        traffic_bytes=attention.traffic_bytes + linear.traffic_bytes,
        energy_pj=attention.energy_pj + linear.energy_pj,
        util_2d=(attention.util_2d * attention.latency_s + linear.util_2d * linear.latency_s) / seconds,
        util_1d=(attention.util_1d * attention.latency_s + linear.util_1d * linear.latency_s) / seconds,
        mapping=attention.mapping,
    )
