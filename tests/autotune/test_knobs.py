"""Knobs: neighbours and codes."""

from __future__ import annotations

import pytest

from attncast.autotune.knobs import Category, Level, Place, Power, Shape

SHAPES = ("1x8x8", "2x4x8", "2x8x4", "2x8x8", "4x4x4", "8x8x1")
KNOBS = (
    Power("BLOCK_M", (16, 32, 64, 128), 64),
    Level("num_stages", (1, 2, 3), 2),
    Level("USE_TMA", (False, True), False),
    Category("order", ("tiles", "row"), "tiles"),
    Shape("q_tile", SHAPES, "4x4x4"),
    Place("maxnreg", (0, 168, 128, 96), 0),
)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_neighbours_are_other_values_and_see_each_other(knob):
    for value in knob.values:
        found = knob.neighbours(value)
        assert value not in found
        assert set(found) <= set(knob.values)
        assert all(value in knob.neighbours(other) for other in found)


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_codes_have_one_length_and_differ(knob):
    codes = [knob.encode(value) for value in knob.values]
    assert len({len(code) for code in codes}) == 1
    assert len(set(codes)) == len(codes)


def test_neighbours_by_hand():
    assert KNOBS[0].neighbours(64) == (32, 128)
    assert KNOBS[0].neighbours(16) == (32,)
    # One factor of 2 moved, or one axis doubled; 8x8x1 is further.
    assert KNOBS[4].neighbours("2x8x4") == ("1x8x8", "2x4x8", "2x8x8", "4x4x4")
    assert KNOBS[0].encode(128) == (7.0,)
    assert KNOBS[5].neighbours(128) == (168, 96)
    assert KNOBS[5].encode(168) == (1.0,)
    assert KNOBS[4].encode("2x4x8") == (1.0, 2.0, 3.0)


def test_words_are_one_step_apart():
    one, other = (KNOBS[3].encode(value) for value in KNOBS[3].values)
    assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) == pytest.approx(1.0)


def test_a_default_has_to_be_a_value():
    with pytest.raises(ValueError, match="default 48"):
        Power("BLOCK_M", (16, 32), 48)
