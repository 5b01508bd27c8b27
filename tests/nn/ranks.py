"""What tests of networks on ranks share: this rank's part, and the network of one process beside the shared one."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lpgpu import LayerParallel
from lpgpu.comm import as_communicator
from lpgpu.comm.choice import size_and_rank
from lpgpu.comm.launcher import world_of_launcher
from tests.assertions import Derivatives, assert_close_relative, derivatives
from tests.settings import blocks_of

COMM = world_of_launcher()
"""All ranks: MPI's communicator under mpiexec, the process group under torchrun."""

SIZE, RANK = size_and_rank(COMM)
allgather = as_communicator(COMM).allgather

blocks = blocks_of(ranks=(SIZE, SIZE))


def part_of(sizes: list[int]) -> slice:
    """This rank's indices of what is distributed in blocks of these sizes."""
    first = sum(sizes[:RANK])
    return slice(first, first + sizes[RANK])


def one_and_shared(
    sizes: list[int], block: Callable[[], nn.Module], *, seed: int, **options: Any
) -> tuple[LayerParallel, LayerParallel]:
    """The same network on this process alone, and shared by the ranks."""
    networks = []
    for comm, steps in ((None, sum(sizes)), (COMM, sizes[RANK])):
        torch.manual_seed(seed)
        networks.append(LayerParallel(comm, block, steps, 1.0, **options).double())
    return networks[0], networks[1]


def assert_shares(
    one: LayerParallel, shared: LayerParallel, sizes: list[int], shape: tuple[int, ...], device: str = "cpu"
) -> None:
    """Fails unless the shared network computes, of output and gradients, what this process alone does."""
    x, weight = torch.randn(2, *shape, dtype=torch.float64).to(device)
    expected, came = derivatives(one, x, weight), derivatives(shared, x, weight)
    assert_same_part(came, expected, part_of(sizes))


def assert_same_part(came: Derivatives, expected: Derivatives, part: slice) -> None:
    """Fails unless the gradients are this rank's part of those expected, and the rest all of it."""
    assert_close_relative(came.y, expected.y, "y")
    assert_close_relative(came.dx, expected.dx, "dx")
    for name, gradient in expected.dtheta.items():
        assert_near(came.dtheta[name], gradient[part], gradient, f"gradient of {name}")


def assert_near(came: Tensor, expected: Tensor, scale: Tensor, what: str) -> None:
    """Fails unless ‖came − expected‖ ≤ 1e-12 ‖scale‖: a part may be tiny beside the whole."""
    difference = torch.linalg.vector_norm(came - expected)
    if not difference <= 1e-12 * torch.linalg.vector_norm(scale):
        raise AssertionError(f"{what} is off by {float(difference):.3e}")


def same_on_all_ranks(value: Any) -> bool:
    """Whether a Python object is."""
    everything = allgather(value)
    return all(each == everything[0] for each in everything)


seeds = st.integers(0, 2**32 - 1)
