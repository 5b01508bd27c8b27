"""Picard steps of a GRU, checked; see the package and `kernels.picard`."""

from torch import Tensor

from lpgpu.kernels.checks import check_sweep, check_tensors
from lpgpu.kernels.implicit_gru import operators
from lpgpu.kernels.implicit_gru.checks import check_cell, check_runs
from lpgpu.kernels.implicit_gru.reference import Cell, Coefficients
from lpgpu.kernels.sweep import Sweep, Terms


def picard(h_KBH: Tensor, x_KSBG: Tensor, cell: Cell, order: int, out: Tensor) -> None:
    """Set out = v_S, what `order` Picard iterations over each run of S steps make of h.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> h, out, cell = torch.ones(1, 1, 1), torch.empty(1, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> picard(h, torch.zeros(1, 3, 1, 3), cell, 1, out)
    >>> out.item()
    0.125
    """
    check_runs(h_KBH, order, cell.w, x_KSBG)
    check_cell(h_KBH, x_KSBG[:, 0], cell, h=h_KBH, out=out)
    operators.picard(h_KBH, x_KSBG, cell, order, out)


def adjoint_picard(lam_KBH: Tensor, at: Coefficients, w_GH: Tensor, order: int, out: Tensor) -> None:
    """As `picard`, of the steps' transposed Jacobians from the last to the first; `at` is [K, S, ...].

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> at = Coefficients(torch.full((1, 3, 1, 1), 0.5), torch.zeros(1, 3, 1, 3), torch.zeros(1, 3, 1, 1))
    >>> out = torch.empty(1, 1, 1)
    >>> adjoint_picard(torch.ones(1, 1, 1), at, torch.zeros(3, 1), 1, out)
    >>> out.item()
    0.125
    """
    check_runs(lam_KBH, order, w_GH, at=at)
    check_tensors(lam_KBH, out=(out, lam_KBH.shape))
    operators.adjoint_picard(lam_KBH, at, w_GH, order, out)


def picard_sweep(
    h_PBH: Tensor, x_LSBG: Tensor, cell: Cell, order: int, sweep: Sweep, g_PBH: Tensor | None = None
) -> None:  # fmt: skip
    """March the states of a window of L runs through them, in place: as `sweep`, each step a Picard step.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> h, cell = torch.ones(3, 1, 1), Cell(torch.zeros(3, 1), None, 1.0, "classic")
    >>> picard_sweep(h, torch.zeros(2, 3, 1, 3), cell, 1, Sweep(2, 0, 2, 2))
    >>> h.flatten().tolist()
    [1.0, 0.125, 0.015625]
    """
    check_sweep(h_PBH, sweep, Terms(g_PBH))
    check_runs(h_PBH[1:], order, cell.w, x_LSBG)
    check_cell(h_PBH, x_LSBG[:, 0], cell, h=h_PBH[1:])
    operators.picard_sweep(h_PBH, x_LSBG, cell, order, sweep, g_PBH)


def adjoint_picard_sweep(
    lam_PBH: Tensor, at: Coefficients, w_GH: Tensor, order: int, sweep: Sweep, g_PBH: Tensor | None = None
) -> None:  # fmt: skip
    """March adjoint states: as `picard_sweep`, of the transposed Jacobians.

    Raises:
        ValueError: for tensors whose shapes, dtypes or devices do not go together, or an order below 1.

    >>> import torch
    >>> at = Coefficients(torch.full((2, 3, 1, 1), 0.5), torch.zeros(2, 3, 1, 3), torch.zeros(2, 3, 1, 1))
    >>> lam, back = torch.ones(3, 1, 1), Sweep(2, 1, 2, 2, reverse=True)
    >>> adjoint_picard_sweep(lam, at, torch.zeros(3, 1), 1, back)
    >>> lam.flatten().tolist()
    [0.015625, 0.125, 1.0]
    """
    check_sweep(lam_PBH, sweep, Terms(g_PBH))
    check_runs(lam_PBH[1:], order, w_GH, at=at)
    operators.adjoint_picard_sweep(lam_PBH, at, w_GH, order, sweep, g_PBH)
