"""The fused GRU kernels on a GPU, against the reference in fp64 on the CPU.

The classic cell's default tests are those of whole networks (tests/nn/test_on_a_gpu.py).
"""

import pytest
import torch

from lpgpu.kernels.devices import arch_of
from lpgpu.kernels.implicit_gru import tiles
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep
from tests.kernels.fused import gru, gru_picard
from tests.kernels.fused.gru import Case
from tests.kernels.fused.inputs import some

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.parametrize("formulation", some(["implicit"], "classic")),
    pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str),
]

WIDTHS = pytest.mark.parametrize("width", some([64, 128, 200], 20, 100))


@WIDTHS
@pytest.mark.parametrize("way", gru.WAYS)
@pytest.mark.parametrize("terms", some([True], False))
def test_sweep(width: int, dtype: torch.dtype, formulation: str, way: str, terms: bool) -> None:
    case = Case(batch=37, width=width, formulation=formulation, dtype=dtype, device="cuda", order="spread")
    arch = arch_of(torch.device("cuda", torch.cuda.current_device()))
    kind = "forward" if way == "forward" else "adjoint" if way == "adjoint" else "recomputed"
    chosen = tiles.tile(width, dtype, arch, precision=dot_precision(dtype), kind=kind, arrays=3 * terms)
    if way == "recomputed" and chosen.kind == "tiled":
        pytest.skip(chosen.reason)
    sweep = Sweep(10, 0, 4, 3) if way == "forward" else Sweep(8, 3, 4, 3, reverse=True)
    launches = 1 if chosen.kind == "resident" else 3
    gru.check_sweep(case, sweep, way=way, rhs=terms, delta=terms, products=terms, launches=launches)


@WIDTHS
@pytest.mark.parametrize("batch", [3, 700])
def test_steps(width: int, dtype: torch.dtype, formulation: str, batch: int) -> None:
    case = Case(batch=batch, width=width, formulation=formulation, dtype=dtype, device="cuda", order="spread")
    gru.check_steps(case, 3)


def test_at_zero(dtype: torch.dtype, formulation: str) -> None:
    gru.check_at_zero(Case(batch=37, width=100, formulation=formulation, dtype=dtype, device="cuda"), 5)


@WIDTHS
@pytest.mark.parametrize("order", [1, 2])
def test_picard(width: int, dtype: torch.dtype, formulation: str, order: int) -> None:
    case = Case(batch=37, width=width, formulation=formulation, dtype=dtype, device="cuda", order="spread")
    arch = arch_of(torch.device("cuda", torch.cuda.current_device()))
    resident = tiles.tile(width, dtype, arch, precision=dot_precision(dtype)).kind == "resident" and order == 1
    for adjoint in (False, True):
        gru_picard.check_step(case, 3, 5, order, adjoint=adjoint)
        one = {gru_picard.ADJOINT if adjoint else gru_picard.FORWARD: 3 * order}
        launches = {gru_picard.MARCH: 1} if resident and not adjoint else one
        march = Sweep(3, 2 * adjoint, 3, 3, reverse=adjoint)
        gru_picard.check_sweep(case, 5, order, march, rhs=True, launches=launches)


@pytest.mark.parametrize("width", some([20], 100))
def test_past_the_end_the_state_is_held_and_so_is_the_adjoint(width: int, dtype: torch.dtype, formulation: str) -> None:
    if dtype == torch.float64 and width > 32:
        pytest.skip("recomputing holds W twice: fp64 up to H = 32")
    gru.check_ended(Case(batch=6, width=width, formulation=formulation, dtype=dtype, device="cuda"))
