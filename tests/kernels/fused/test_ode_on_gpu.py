"""The fused ODE steps, FAS arithmetic and affine scan on a GPU: as the interpreter's tests, in every dtype."""

import itertools

import pytest
import torch

from lpgpu.kernels.dense_step import tiles
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused import affine_scan, conv, conv_picard, dense, dense_picard, fas
from tests.kernels.fused.inputs import ACTIVATIONS, some

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
F_SWEEP, RAGGED, MARCH = Sweep(12, 0, 4, 3), Sweep(10, 0, 4, 3), Sweep(3, 0, 3, 3)
F_SWEEP_BACK = Sweep(12, 3, 4, 3, reverse=True)

pytestmark = pytest.mark.gpu

in_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
with_every_activation = pytest.mark.parametrize(
    ("activation", "dtype"),
    some(
        [(activation, torch.float32) for activation in ACTIVATIONS],
        *itertools.product(ACTIVATIONS, [dtype for dtype in DTYPES if dtype != torch.float32]),
    ),
)


@in_every_dtype
@pytest.mark.parametrize("width", some([8, 64, 512], 20, 100, 128, 256))
class TestDense:
    def test_step(self, width: int, dtype: torch.dtype) -> None:
        dense.check_step(dense.Case(200, width, dtype=dtype, device="cuda"), 3)

    @pytest.mark.parametrize("sweep", some([RAGGED], F_SWEEP, MARCH), ids=str)
    @pytest.mark.parametrize("corrected", some([True], False))
    def test_sweep(self, width: int, dtype: torch.dtype, sweep: Sweep, corrected: bool) -> None:
        case = dense.Case(200, width, dtype=dtype, device="cuda")
        dense.check_sweep(case, sweep, adjoint=False, rhs=corrected, delta=corrected, products=corrected)

    def test_adjoint_sweep(self, width: int, dtype: torch.dtype) -> None:
        case = dense.Case(17, width, dtype=dtype, device="cuda", order="spread")
        dense.check_sweep(case, F_SWEEP_BACK, adjoint=True, rhs=True, delta=False, products=True)

    @pytest.mark.parametrize("order", [1, 2])
    def test_picard(self, width: int, dtype: torch.dtype, order: int) -> None:
        case = dense.Case(200, width, dtype=dtype, device="cuda")
        one = order > 1 or tiles.picard_march_tile(width, dtype, order) is None
        launches = {dense_picard.ONE: 3 * order} if one else {dense_picard.MANY: 1}
        for adjoint in (False, True):
            dense_picard.check_step(case, 3, 5, order, adjoint=adjoint)
            march = Sweep(3, 2 * adjoint, 3, 3, reverse=adjoint)
            dense_picard.check_sweep(case, 5, order, march, rhs=True, launches=launches)


@with_every_activation
def test_dense_activations(activation: str, dtype: torch.dtype) -> None:
    dense.check_step(dense.Case(33, 20, activation, dtype=dtype, device="cuda"), 2)


@in_every_dtype
@pytest.mark.parametrize("channels", some([8, 64], 3, 16))
@pytest.mark.parametrize("convolutions", [1, 2])
class TestConv:
    @pytest.mark.parametrize("size", some([28], 9))
    def test_step(self, channels: int, convolutions: int, size: int, dtype: torch.dtype) -> None:
        conv.check_step(conv.Case((5, channels, size, size), convolutions, dtype=dtype, device="cuda", packed=True), 3)

    def test_sweep(self, channels: int, convolutions: int, dtype: torch.dtype) -> None:
        case = conv.Case((3, channels, 28, 28), convolutions, dtype=dtype, device="cuda", packed=True)
        conv.check_sweep(case, RAGGED, adjoint=False, rhs=True, delta=False)
        conv.check_sweep(case, F_SWEEP_BACK, adjoint=True, rhs=True, delta=True)

    def test_picard(self, channels: int, convolutions: int, dtype: torch.dtype) -> None:
        case = conv.Case((3, channels, 28, 28), convolutions, dtype=dtype, device="cuda", packed=True)
        for order, adjoint in itertools.product((1, 2), (False, True)):
            conv_picard.check_step(case, 2, 5, order, adjoint=adjoint)
            conv_picard.check_sweep(case, 3, order, Sweep(2, int(adjoint), 2, 2, reverse=adjoint), rhs=True)


@with_every_activation
def test_conv_activations(activation: str, dtype: torch.dtype) -> None:
    conv.check_step(conv.Case((2, 8, 9, 7), 2, activation, order="contiguous", dtype=dtype, device="cuda"), 2)


@in_every_dtype
@pytest.mark.parametrize(
    "orders", some([("channels last", "spread", "contiguous")], ("contiguous",) * 3, ("spread",) * 3)
)
def test_fas(orders: tuple[str, str, str], dtype: torch.dtype) -> None:
    fas.check(fas.Case((17, 50, 8, 784), orders, dtype, "cuda"), 16)


@in_every_dtype
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_decay", [False, True])
def test_affine_scan(dtype: torch.dtype, with_decay: bool, reverse: bool) -> None:
    shape, orders = (3, 64, 16, 100), ("contiguous", "one anchor")
    affine_scan.check(affine_scan.Case(shape, orders, with_decay, reverse, dtype=dtype, device="cuda"))
