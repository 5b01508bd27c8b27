"""The affine scan in plain PyTorch against its formula, and what it refuses."""

import pytest
import torch

from lpgpu.kernels.affine_scan import affine_scan
from tests.assertions import assert_close_relative
from tests.kernels.fused.affine_scan import expected


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_decay", [False, True])
def test_is_the_formula(with_decay: bool, reverse: bool) -> None:
    v, phi, anchors, decay = (torch.randn(2, steps, 3, 5, dtype=torch.float64) for steps in (8, 7, 7, 7))
    exact = expected(v, phi, anchors, decay if with_decay else None, reverse)
    (v[:, :-1] if reverse else v[:, 1:]).fill_(torch.nan)
    affine_scan(v, phi, anchors, decay if with_decay else None, reverse=reverse)
    assert_close_relative(v, exact)


def test_refused() -> None:
    v, phi = torch.zeros(2, 4, 3), torch.zeros(2, 3, 3)
    with pytest.raises(ValueError, match="phi has shape"):
        affine_scan(v, v, phi, None)
    with pytest.raises(ValueError, match=r"decay is torch\.float64"):
        affine_scan(v, phi, phi, phi.double())
