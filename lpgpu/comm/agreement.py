"""Ranks that raise together, or not at all."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from lpgpu.comm import failure

T = TypeVar("T")


class Gathers(Protocol):
    """What an agreement needs of a communicator."""

    def same_everywhere(self, digest: int) -> bool:
        """Whether `digest` is the same on every rank, and ≥ 0. Collective."""
        ...

    def allgather(self, value: T) -> list[T]:
        """See `Communicator`."""
        ...


def agree(communicator: Gathers, check: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
    """See `Communicator.agree`. Costs one reduction of two integers where all is well."""
    error: Exception | None = None
    here: dict[str, str] = {}
    try:
        check()
        here = {name: str(fact) for name, fact in facts().items()}
    except Exception as raised:
        error = raised
    if communicator.same_everywhere(-1 if error else _digest(here)):
        return
    reports = communicator.allgather((here, None if error is None else f"{type(error).__name__}: {error}"))
    raised = ValueError(_difference(reports)) if error is None else error
    raise failure.on_all_ranks(raised)


def _digest(facts: Mapping[str, str]) -> int:
    return int.from_bytes(hashlib.sha256(repr(sorted(facts.items())).encode()).digest()[:7], "little")


def _difference(reports: list[tuple[dict[str, str], str | None]]) -> str:
    """Which rank failed, or which fact differs between which ranks."""
    failed = next((f"rank {rank}: {error}" for rank, (_, error) in enumerate(reports) if error), None)
    if failed:
        return failed
    named = reports[0][0]
    differing = [name for name in named if len({here.get(name) for here, _ in reports}) > 1]
    values = (
        f"{name} is " + ", ".join(f"{here.get(name)} on rank {rank}" for rank, (here, _) in enumerate(reports[:8]))
        for name in differing
    )
    return "ranks differ in what must be the same on all of them: " + "; ".join(values)
