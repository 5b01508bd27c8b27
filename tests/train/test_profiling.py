"""Timings: sums and counts, on the host's clock and on a device's events."""

import sys
import time
import types
from contextlib import nullcontext

import pytest
import torch

from lpgpu import profiling
from lpgpu.profiling import Timings, nvtx_range, recorded


def test_seconds_and_counts_add_up():
    timings = Timings()
    for _ in range(3):
        with timings("sleep"):
            time.sleep(0.01)
    with timings("nothing"):
        pass
    seconds = timings.seconds()
    assert list(seconds) == ["sleep", "nothing"]
    assert 0.03 <= seconds["sleep"] < 1
    assert seconds["nothing"] < 0.01
    assert timings.counts == {"sleep": 3, "nothing": 1}


def test_a_part_inside_another_is_counted_as_itself_alone():
    timings = Timings()
    with timings("outer"):
        time.sleep(0.01)
        with timings("inner"):
            time.sleep(0.05)
    seconds = timings.seconds()
    assert 0.01 <= seconds["outer"] < 0.05 <= seconds["inner"]


def test_a_body_that_raises_is_counted_and_passes_on():
    timings = Timings()
    with pytest.raises(KeyError), timings("raises"):
        raise KeyError
    assert timings.counts == {"raises": 1}


class FakeEvent:
    """A CUDA event whose device runs one tick behind: it is complete once `now` has passed it."""

    now, made, waits = 0, 0, 0

    def __init__(self, enable_timing: bool):
        assert enable_timing
        FakeEvent.made += 1

    def record(self) -> None:
        FakeEvent.now += 1
        self.at = FakeEvent.now

    def query(self) -> bool:
        return self.at < FakeEvent.now - 4

    def synchronize(self) -> None:
        FakeEvent.waits += 1

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1000.0 * (end.at - self.at)


def test_device_events_are_resolved_late_and_used_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    timings = Timings("cuda")
    for _ in range(1000):
        with timings("step"):
            pass
    assert FakeEvent.waits == 0
    assert FakeEvent.made < 20
    assert timings.seconds() == {"step": 1000.0}
    assert timings.counts == {"step": 1000}
    assert FakeEvent.waits > 0


@pytest.mark.gpu
def test_device_time_is_the_devices():
    timings = Timings("cuda")
    with timings("sleep"):
        torch.cuda._sleep(100_000_000)
    assert 0.01 < timings.seconds()["sleep"] < 1


@pytest.mark.parametrize(
    ("switch", "tool", "on"),
    [(None, None, False), (None, "tool.so", True), ("0", "tool.so", False), ("1", None, True)],
)
def test_ranges_are_made_where_a_tool_listens(
    switch: str | None, tool: str | None, on: bool, monkeypatch: pytest.MonkeyPatch
):
    package = types.ModuleType("nvtx")
    package.annotate = nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "nvtx", package)
    for name, value in (("LPGPU_NVTX", switch), ("NVTX_INJECTION64_PATH", tool)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert (profiling._nvtx_annotate() is nullcontext) == on


def test_ranges_are_free_where_none_listens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(profiling, "_annotate", None)
    assert nvtx_range("a") is nvtx_range("b")
    assert isinstance(nvtx_range("a"), nullcontext)


def test_ranges_are_recorded_where_asked_for_and_nowhere_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(profiling, "_annotate", None)
    with recorded() as events:
        with Timings()("forward"), nvtx_range("wait"):
            pass
        with pytest.raises(KeyError), nvtx_range("raises"):
            raise KeyError
    with nvtx_range("later"):
        pass
    assert [name for _, name in events] == ["forward", "wait", None, None, "raises", None]
    times = [at for at, _ in events]
    assert times == sorted(times) and isinstance(nvtx_range("a"), nullcontext)


def test_ranges_carry_their_name(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(profiling, "_annotate", lambda name, domain: seen.append((name, domain)) or nullcontext())
    with Timings()("forward"):
        pass
    assert seen == [("forward", "lpgpu")]
