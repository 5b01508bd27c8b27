"""The arguments of an operation's function, as an operator of torch takes them: tensors, numbers, and lists of these.

An argument may be a record (a dataclass or a named tuple) of tensors and numbers, and is then taken apart into its
fields; or a list of such records; or of a class that says itself what it becomes, such as a `Sweep` (`SCHEMA`,
`as_operand`, `of_operand`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor

_SCHEMAS = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    float: "float",
    int: "int",
    bool: "bool",
    str: "str",
    type(None): "()",
}
Form = tuple[Any, ...] | None


def forms_of(tensors: Iterable[Tensor | None]) -> tuple[Form, ...]:
    """Dtype, shape and strides of each tensor: all that a launch depends on but the numbers in them."""
    return tuple([None if t is None else (t.dtype, t.shape, t.stride()) for t in tensors])


@dataclass(frozen=True)
class _Argument:
    """One argument: what it is called in a schema, and the way there and back.

    `names` and `types` are those of the operands that it becomes; `tensors` are the tensors in it, None where one is
    absent.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    flat: Callable[[Any], Sequence[Any]]
    whole: Callable[[Sequence[Any]], Any]
    tensors: Callable[[Any], Sequence[Tensor | None]]


@dataclass(frozen=True)
class Signature:
    """What a function takes and returns."""

    arguments: tuple[_Argument, ...]
    returns: str

    @property
    def first_tensor(self) -> int:
        """Which argument is the first that is a tensor."""
        return next(i for i, argument in enumerate(self.arguments) if argument.types == ("Tensor",))

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Signature":
        """By the function's annotations."""
        hints = get_type_hints(function)
        returns = _SCHEMAS.get(hints.pop("return"), "")
        return cls(tuple(_argument(name, hint) for name, hint in hints.items()), returns)

    def flat(self, args: Iterable[Any]) -> list[Any]:
        """The operator's operands for the function's arguments."""
        return [operand for argument, arg in zip(self.arguments, args, strict=False) for operand in argument.flat(arg)]

    def whole(self, operands: Sequence[Any]) -> Iterator[Any]:
        """The function's arguments for the operator's operands."""
        start = 0
        for argument in self.arguments:
            stop = start + len(argument.names)
            yield argument.whole(operands[start:stop])
            start = stop

    def tensors(self, args: Iterable[Any]) -> list[Tensor | None]:
        """All tensors among the arguments."""
        return [t for argument, arg in zip(self.arguments, args, strict=False) for t in argument.tensors(arg)]

    def schema(self, mutates: Sequence[str]) -> str:
        """As torch.library wants it, where the operands named `mutates` are written."""
        parts = []
        for argument in self.arguments:
            for name, kind in zip(argument.names, argument.types, strict=True):
                alias = f"(a{mutates.index(name)}!)" if name in mutates else ""
                parts.append(f"{kind.replace('Tensor', f'Tensor{alias}', 1)} {name}")
        return f"({', '.join(parts)}) -> {self.returns}"


def _argument(name: str, hint: Any) -> _Argument:
    if hint in _SCHEMAS:
        of_tensor = "Tensor" in _SCHEMAS[hint]
        return _Argument((name,), (_SCHEMAS[hint],), _one, _first, _one if of_tensor else _none)
    if hasattr(hint, "SCHEMA"):
        tensors = hint.tensors if "Tensor" in hint.SCHEMA else _none
        return _Argument((name,), (hint.SCHEMA,), lambda a: (a.as_operand(),), lambda o: hint.of_operand(*o), tensors)
    if get_origin(hint) is list:
        return _list_of(*get_args(hint))
    names, types = zip(*_fields(hint), strict=True)
    of_tensors = [field for field, kind in zip(names, types, strict=True) if kind.startswith("Tensor")]
    return _Argument(
        names,
        types,
        lambda record: [getattr(record, field) for field in names],
        lambda operands: hint(*operands),
        lambda record: [getattr(record, field) for field in of_tensors],
    )


def _list_of(hint: Any) -> _Argument:
    """Of records of tensors: a list for each field."""
    names, types = zip(*_fields(hint), strict=True)
    return _Argument(
        names,
        tuple(f"{kind}[]" for kind in types),
        lambda records: [list(each) for each in zip(*records, strict=True)],
        lambda operands: [hint(*each) for each in zip(*operands, strict=True)],
        lambda records: [t for record in records for t in record],
    )


def _fields(hint: Any) -> list[tuple[str, str]]:
    names = [field.name for field in fields(hint)] if is_dataclass(hint) else hint._fields
    hints = get_type_hints(hint)
    return [(name, _SCHEMAS[hints[name]]) for name in names]


def _one(arg: Any) -> tuple[Any]:
    return (arg,)


def _first(operands: Sequence[Any]) -> Any:
    return operands[0]


def _none(arg: Any) -> tuple[()]:
    return ()
