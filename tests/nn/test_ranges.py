"""The ranges that a profiler's timeline shows, nested as the solver nests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lpgpu import MGRIT, profiling
from tests.nn.networks import inputs, network


def test_solve_cycle_and_level_are_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, ...]] = set()
    stack: list[str] = []

    @contextmanager
    def annotate(name: str, domain: str) -> Iterator[None]:
        assert domain == "lpgpu"
        stack.append(name)
        seen.add(tuple(stack))
        yield
        stack.pop()

    monkeypatch.setattr(profiling, "_annotate", annotate)
    net = network(num_steps=12, solver=MGRIT(levels=2, coarsening=3))
    net(inputs()).square().sum().backward()
    for what in ("forward solve", "adjoint solve"):
        assert {
            (what, "cycle", "sweep level 0"),
            (what, "cycle", "step level 0"),
            (what, "cycle", "step level 1"),
            (what, "cycle", "sweep level 1"),
        } <= seen
    assert not stack
