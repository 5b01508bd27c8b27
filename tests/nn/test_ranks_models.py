"""Existing models, running statistics and states of several tensors on several ranks. Run by tests/test_on_ranks.py."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lpgpu import MGRIT, LayerParallel, parallelize, unparallelize
from lpgpu.nn import resnet_ode
from tests.assertions import assert_close_relative
from tests.nn.networks import WIDTH
from tests.nn.ranks import COMM, RANK, SIZE, one_and_shared, part_of
from tests.nn.test_parallelize import Model, loss_of
from tests.nn.test_statistics import STATISTICS, block, statistics

pytestmark = pytest.mark.mpi(1, 2, 3, 4)

SIZES = [9, 4, 1, 7][:SIZE]


@pytest.mark.parametrize("store", ["all", "c_points"])
def test_a_model_is_parallelized_and_comes_back(store: Any, seed: int) -> None:
    """Every rank computes what one process does, and has the whole model afterwards."""
    torch.manual_seed(seed)
    model = Model(9).double()
    tokens, solver = torch.randint(0, 5, (2, 3)), MGRIT(coarsening=2, iterations=1, store=store)
    one, many = copy.deepcopy(model), copy.deepcopy(model)
    parallelize(one, "h", solver=solver)
    (part,) = parallelize(many, "h", comm=COMM, solver=solver)
    assert part.num_steps == 9 and part.local_num_steps in (9 // SIZE, 9 // SIZE + 1)
    for each in (one, many):
        loss_of(each, tokens, None).backward()
        torch.optim.SGD(each.parameters(), 0.1).step()
        unparallelize(each, "h")
    for (name, theta), other in zip(many.named_parameters(), one.parameters(), strict=True):
        assert_close_relative(theta, other, name)
        assert_close_relative(theta.grad, other.grad, name)  # pyright: ignore


@pytest.mark.parametrize("store", ["all", "c_points"])
def test_running_statistics_are_those_of_one_process(store: Any, seed: int) -> None:
    solver = MGRIT(coarsening=3, store=store, iterations=1)
    one, many = one_and_shared(SIZES, block, seed=seed, solver=solver)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    one(x), many(x)
    assert len(STATISTICS) == 3
    for mine, whole in zip(statistics(many), statistics(one), strict=True):
        assert_close_relative(mine.double(), whole[part_of(SIZES)].double())


def test_fewer_modules_than_ranks_are_refused() -> None:
    blocks = [nn.Linear(3, 3) for _ in range(SIZE - 1)]
    with pytest.raises(ValueError, match=r"modules for|at least"):
        LayerParallel.of_modules(COMM, blocks)


def test_a_network_of_stages(seed: int) -> None:
    """Each rank has the scores of one process, and the gradients of all that is on every rank."""
    solver, x = MGRIT(levels=2, coarsening=2, iterations=1), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    found = []
    for comm in (None, COMM):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"widths": (2, 4), "blocks": (9, 2 * SIZE), "solver": solver}
        net = resnet_ode(3, in_channels=1, comm=comm, **options).double()
        y = net(x.requires_grad_())
        outside = [theta for name, theta in net.named_parameters() if not name.startswith("stages")]
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *outside])])
    for came, expected in zip(found[1], found[0], strict=True):
        assert_close_relative(came, expected)


@pytest.mark.parametrize("store", ["all", "c_points"])
def test_blocks_in_bf16_are_those_of_one_process(store: Any, seed: int) -> None:
    """By block_dtype and by autocast; to the rounding of an increment, as sums of products may differ in order."""
    solver, x = MGRIT(levels=2, coarsening=3, store=store, iterations=1), torch.randn(5, WIDTH)
    found = []
    for comm, steps in ((None, sum(SIZES)), (COMM, SIZES[RANK])):
        torch.manual_seed(seed)
        net = LayerParallel(comm, block, steps, 1.0, solver=solver, block_dtype=torch.bfloat16)
        x.requires_grad_()
        y = net(x)
        net.block_dtype = None
        with torch.autocast("cpu", torch.bfloat16):
            by_autocast = net(x)
        found.append([y, by_autocast, *torch.autograd.grad(y.square().sum() + by_autocast.sum(), x)])
    for came, expected in zip(found[1], found[0], strict=True):
        assert came.dtype == torch.float32
        assert_close_relative(came, expected, tolerance=2**-9)


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
def test_autocast_on_some_ranks_only_is_refused() -> None:
    net = LayerParallel(COMM, block, 3, 1.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=RANK == 0), pytest.raises(ValueError, match="autocast is"):
        net(torch.ones(5, WIDTH))
