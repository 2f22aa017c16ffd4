"""Dataclasses as JSON: the same back, to the last bit; anything else is refused."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_le.calibration.json_values import from_json, to_json
from nnunetv2_le.errors import InputError


@dataclass(frozen=True)
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"


@dataclass(frozen=True)
class Square:
    side: float
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Drawing:
    name: str
    count: int
    is_good: bool
    limit: float | None
    shapes: tuple[Circle | Square, ...]
    by_label: dict[str, tuple[float, ...]]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
SHAPES = st.one_of(st.builds(Circle, radius=FINITE), st.builds(Square, side=FINITE))
DRAWINGS = st.builds(
    Drawing,
    name=st.text(),
    count=st.integers(),
    is_good=st.booleans(),
    limit=st.none() | FINITE,
    shapes=st.lists(SHAPES).map(tuple),
    by_label=st.dictionaries(st.text(), st.lists(FINITE).map(tuple)),
)
CONTENT = {"name": "a", "count": 1, "is_good": True, "limit": None, "shapes": [], "by_label": {}}


@settings(max_examples=30)
@given(DRAWINGS)
def test_what_is_read_is_what_was_written(drawing):
    text = json.dumps(to_json(drawing), allow_nan=False)
    assert from_json(Drawing, json.loads(text)) == drawing


def test_whole_numbers_may_stand_for_floats_and_not_the_other_way_round():
    assert from_json(Drawing, {**CONTENT, "limit": 3}).limit == 3.0
    with pytest.raises(InputError, match=r"expected int at \.count, got 1\.5"):
        from_json(Drawing, {**CONTENT, "count": 1.5})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, r"expected str at \.name, got 3"),
        ({"is_good": 1}, r"expected bool at \.is_good"),
        ({"count": True}, r"expected int at \.count, got True"),
        ({"limit": "high"}, r"expected a number at \.limit"),
        ({"limit": True}, r"expected a number at \.limit"),
        ({"shapes": {}}, r"expected a list at \.shapes"),
        ({"shapes": [{"kind": "star", "radius": 1.0}]}, r"a known kind at \.shapes\[0\]"),
        (
            {"shapes": [{"kind": "circle", "side": 1.0}]},
            r"the fields kind, radius at \.shapes\[0\]",
        ),
        ({"by_label": []}, r"expected an object at \.by_label"),
        ({"by_label": {"a": [None]}}, r"expected a number at \.by_label\.a\[0\]"),
        ({"extra": 1}, "expected the fields .* got .*extra"),
    ],
)
def test_another_form_is_refused_with_its_place(change, said):
    with pytest.raises(InputError, match=said):
        from_json(Drawing, {**CONTENT, **change})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_written(value):
    with pytest.raises(ValueError, match="cannot be stored"):
        to_json(Circle(value))
