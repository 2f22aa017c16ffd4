"""Frozen dataclasses as plain JSON and back, without a bit lost.

Handles what fitted parts are made of: numbers, strings, booleans, None, tuples of one type,
dictionaries with names as keys, dataclasses, and unions of dataclasses that tell themselves apart
by a ``kind``. Floats are written with the digits that give the same float back. Nothing is executed
on reading, unlike with a pickle.
"""

import dataclasses
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nnunetv2_le.errors import InputError

Value = TypeVar("Value")


def to_json(value: Any) -> Any:
    """A dataclass, or a value of one, in types that JSON has.

    Raises:
        ValueError: a number is NaN or infinite; a fitted part says such things with None.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} cannot be stored")
    return value


def from_json(kind: type[Value], content: Any, *, where: str = "") -> Value:
    """Read a dataclass back.

    Args:
        kind: the dataclass.
        content: what `to_json` made of one.
        where: the place in the file, for messages.

    Raises:
        InputError: the content has another form.
    """
    value: Value = _read(kind, content, where)
    return value


def _read(kind: Any, content: Any, where: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(parts, content, where)
    if origin is Literal:
        return _require(content in parts, content, where, f"one of {parts}")
    if origin is tuple:
        _require(isinstance(content, list), content, where, "a list")
        return tuple(_read(parts[0], item, f"{where}[{n}]") for n, item in enumerate(content))
    if origin is dict:
        _require(isinstance(content, dict), content, where, "an object")
        return {name: _read(parts[1], item, f"{where}.{name}") for name, item in content.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, content, where)
    return _read_plain(kind, content, where)


def _read_union(kinds: tuple[Any, ...], content: Any, where: str) -> Any:
    """None, or the dataclass whose ``kind`` the content names, or the only one there is."""
    if content is None and type(None) in kinds:
        return None
    left = [kind for kind in kinds if kind is not type(None)]
    if len(left) > 1 and isinstance(content, dict):
        named = content.get("kind")
        left = [kind for kind in left if named in get_args(get_type_hints(kind)["kind"])]
    _require(len(left) == 1, content, where, "a value of a known kind")
    return _read(left[0], content, where)


def _read_dataclass(kind: Any, content: Any, where: str) -> Any:
    _require(isinstance(content, dict), content, where, "an object")
    types_of_fields = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    if set(content) != names:
        raise InputError(
            f"expected the fields {', '.join(sorted(names))} at {where or 'the top'}, got "
            f"{', '.join(sorted(content)) or 'none'}"
        )
    return kind(
        **{name: _read(types_of_fields[name], content[name], f"{where}.{name}") for name in content}
    )


def _read_plain(kind: Any, content: Any, where: str) -> Any:
    if kind is float:
        is_number = isinstance(content, int | float) and not isinstance(content, bool)
        return float(_require(is_number, content, where, "a number"))
    is_kind = isinstance(content, kind) and (kind is bool or not isinstance(content, bool))
    return _require(is_kind, content, where, kind.__name__)


def _require(condition: bool, content: Any, where: str, expected: str) -> Any:
    if not condition:
        raise InputError(f"expected {expected} at {where or 'the top'}, got {content!r:.80}")
    return content
