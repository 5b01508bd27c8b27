"""An option: a dataclass field with its help and its bounds; how it is read from text, shown, and checked."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from lpgpu.train.setup.errors import InputError


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    bare: Any = None,
) -> Any:
    """A dataclass field with its help text and, for numbers, its bounds: `least` and `most` included, `above` not.

    `bare` is what the option means on the command line when it is named without a value.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Options:
    ...     width: int = option(8, "width of the network", least=1)
    >>> Options().width
    8
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "least": least, "above": above, "most": most, "bare": bare}
    )


def parse(hint: Any, text: str) -> Any:
    """The value of type `hint` that `text` stands for; of a union, of its first type that fits.

    Several values are parted by commas, None is "none", a bool is "true" or "false".

    >>> parse(int | tuple[int, ...], "16,4"), parse(float | None, "none"), parse(bool | Literal["auto"], "auto")
    ((16, 4), None, 'auto')

    Raises ValueError where it stands for none.
    """
    if _is_union(hint):
        for kind in get_args(hint):
            try:
                return parse(kind, text)
            except ValueError:
                continue
        raise ValueError(f"{text!r} is none of {metavar(hint)}")
    if get_origin(hint) in (tuple, Sequence):
        return tuple(parse(get_args(hint)[0], part) for part in text.split(","))
    named = {str(choice): choice for choice in get_args(hint)} if get_origin(hint) is Literal else _WORDS.get(hint)
    if named is None:
        return hint(text)
    if text not in named:
        raise ValueError(f"{text!r} is none of {', '.join(named)}")
    return named[text]


def metavar(hint: Any) -> str:
    """What the command line calls a value of type `hint`: "N", "X|none", "N[,N…]"."""
    if _is_union(hint):
        one, *others = get_args(hint)
        if others and get_origin(others[0]) in (tuple, Sequence):
            return metavar(others[0])
        return "|".join(map(metavar, (one, *others)))
    if get_origin(hint) in (tuple, Sequence):
        each = metavar(get_args(hint)[0])
        return f"{each}[,{each}…]"
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    return "|".join(_WORDS.get(hint, ())) or {int: "N", float: "X", str: "NAME", Path: "DIR"}[hint]


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def json_value(value: Any) -> Any:
    """The value of an option as JSON's types: paths become strings, tuples lists."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def check(field: dataclasses.Field, hint: Any, value: Any) -> None:
    """Raise `InputError` where `value` is not of the type, or not within the bounds, of the option."""
    allowed = (int, float) if hint is float else _kinds(hint)
    if get_origin(hint) is Literal:
        good = value in get_args(hint)
    else:
        good = isinstance(value, allowed) and isinstance(value, bool) == (hint is bool) and _within_bounds(field, value)
    if not good:
        raise InputError(f"{field.name} is {value!r}; expected {_expected(field, hint)} ({field.metadata['help']})")


_WORDS: dict[Any, dict[str, Any]] = {NoneType: {"none": None}, bool: {"true": True, "false": False}}
_BOUNDS = (("≥", "least"), (">", "above"), ("≤", "most"))
_NAMES = {
    int: "an integer",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    NoneType: "nothing",
    tuple: "several",
}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes that a type, or a union of types, allows."""
    return tuple(get_origin(kind) or kind for kind in (get_args(hint) if _is_union(hint) else (hint,)))


def _within_bounds(field: dataclasses.Field, value: Any) -> bool:
    least, above, most = (field.metadata[bound] for bound in ("least", "above", "most"))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (least is None or value >= least) and (above is None or value > above) and (most is None or value <= most)


def _expected(field: dataclasses.Field, hint: Any) -> str:
    """What an option takes, in words: "an integer ≥ 1"."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    kinds = " or ".join(_NAMES[kind] for kind in _kinds(hint))
    bounds = [f"{sign} {field.metadata[name]}" for sign, name in _BOUNDS if field.metadata[name] is not None]
    return " ".join([kinds, " and ".join(bounds)]).rstrip()
