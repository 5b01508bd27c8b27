"""The precision knob, and that PyTorch's own follows it and overrides it."""

from collections.abc import Iterator

import pytest
import torch

from lpgpu.kernels import precision
from lpgpu.kernels.precision import dot_precision, get_precision, library_precisions, set_precision


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(precision, "_chosen", None)
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default


def test_fp32_products_are_fp32_to_rounding_by_default() -> None:
    assert get_precision() == dot_precision(torch.float32) == "tf32x3"


@pytest.mark.parametrize(
    ("name", "of_torch"),
    [("ieee", "highest"), ("tf32x3", "highest"), ("bf16x3", "highest"), ("tf32", "high"), ("bf16", "medium")],
)
def test_the_library_follows(name: precision.Precision, of_torch: str) -> None:
    set_precision(name)
    assert get_precision() == name
    assert torch.get_float32_matmul_precision() == of_torch


@pytest.mark.parametrize(
    ("name", "allowed"), [("ieee", False), ("tf32x3", False), ("bf16x3", False), ("tf32", True), ("bf16", True)]
)
def test_cudnn_follows(name: precision.Precision, allowed: bool) -> None:
    """Its convolutions and recurrent networks, whatever was said before, in the older way or the newer."""
    torch.backends.cudnn.allow_tf32 = not allowed
    set_precision(name)
    assert torch.backends.cudnn.allow_tf32 is allowed
    for operations in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        assert (operations.fp32_precision == "tf32") is allowed
        operations.fp32_precision = "ieee" if allowed else "tf32"
    set_precision(name)
    for operations in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        assert (operations.fp32_precision == "tf32") is allowed


def test_cudnn_follows_where_a_newer_setting_is_for_everything() -> None:
    torch.backends.fp32_precision = "tf32"
    before = library_precisions()
    set_precision("ieee")
    assert library_precisions() != before
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cudnn.rnn.fp32_precision == "ieee"


@pytest.mark.parametrize(("of_torch", "name"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "bf16")])
def test_what_is_said_to_torch_afterwards_holds(of_torch: str, name: str) -> None:
    set_precision("ieee" if of_torch != "highest" else "tf32")
    torch.set_float32_matmul_precision(of_torch)
    assert get_precision() == name


def test_what_is_said_to_torch_in_its_newer_way_holds() -> None:
    """torch refuses to tell the older setting then."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="legacy and new APIs"):
        torch.get_float32_matmul_precision()
    assert get_precision() == "tf32"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_for_fp32_only(dtype: torch.dtype) -> None:
    set_precision("tf32")
    assert dot_precision(dtype) == "ieee"


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="precision is 'fp8'; expected one of ieee, tf32x3, bf16x3, tf32, bf16"):
        set_precision("fp8")  # pyright: ignore[reportArgumentType]
