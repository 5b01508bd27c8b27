"""Memory orders that no sweep meets every day, and GPUs that the kernels are not for."""

import pytest
import torch

from lpgpu.kernels import devices
from lpgpu.kernels.layout import empty_ordered_like, layer_extent, why_unsupported


def test_a_layer_of_no_rows_spans_nothing() -> None:
    """In a larger tensor its rows lie apart, and counting them as −1 gave a negative stride."""
    nothing = torch.empty(3, 10, 5)[:, ::2][:, :0]
    assert layer_extent(nothing) == 0
    assert empty_ordered_like(2, nothing).shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("hip", "capability", "reason"),
    [(None, (7, 5), "capability 8.0 or above; this one's is 7.5"), ("7.0", (9, 4), "AMD"), (None, (8, 6), None)],
)
def test_gpus_that_the_tiles_are_not_for_are_refused(hip, capability, reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(devices, "arch_of", devices.arch_of.__wrapped__)
    refused = devices.why_unsupported.__wrapped__(torch.device("cuda", 0))
    assert refused is None if reason is None else reason in refused


def test_tensors_on_a_cpu_are_refused_by_dispatch_alone() -> None:
    assert why_unsupported(torch.empty(2, 3)) is None
