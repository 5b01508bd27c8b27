"""LayerParallel on several ranks under MPI is the network of one process. Run by tests/test_on_ranks.py."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lpgpu import (
    MGRIT,
    DivergenceError,
    LayerParallel,
    Serial,
    full_state_dict,
    load_full_state_dict,
    load_weights,
    save_weights,
)
from lpgpu.nn import ConvBlock, DenseBlock, PerLayer
from tests.assertions import TOLERANCE, assert_close_relative, assert_mentions, derivatives, relative_error
from tests.nn.networks import BLOCKS, WIDTH, MaskedAttention
from tests.nn.ranks import (
    COMM,
    RANK,
    SIZE,
    allgather,
    assert_same_part,
    assert_shares,
    blocks,
    one_and_shared,
    part_of,
    same_on_all_ranks,
    seeds,
)
from tests.settings import solver_options, with_delta

pytestmark = [
    pytest.mark.mpi(1, 2, 3, 4, 5),
    pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning"),
]

SIZES = [9, 4, 1, 7, 6][:SIZE]
several = pytest.mark.skipif(SIZE == 1, reason="of several ranks")


def dense() -> nn.Module:
    return DenseBlock(WIDTH, dtype=torch.float64)


def shared(**options: Any) -> LayerParallel:
    return LayerParallel(COMM, dense, SIZES[RANK], 1.0, **options)


@given(
    sizes=blocks,
    options=with_delta(solver_options(), ["none", "diagonal"]),
    iterations=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    tolerance=st.sampled_from([None, 1e-3]),
    seed=seeds,
)
def test_outputs_and_gradients_are_those_of_one_process(
    sizes: list[int],
    options: dict[str, Any],
    iterations: tuple[int, int],
    tolerance: float | None,
    seed: int,
) -> None:
    forward, adjoint = iterations
    solver = MGRIT(**options, iterations=forward, adjoint_iterations=adjoint, tolerance=tolerance)
    one, many = one_and_shared(sizes, dense, seed=seed, solver=solver)
    assert_shares(one, many, sizes, (2, WIDTH))
    for mine, whole in ((many.forward_result, one.forward_result), (many.adjoint_result, one.adjoint_result)):
        assert mine is not None and whole is not None
        assert tuple(map(sum, zip(*allgather(mine.evaluations), strict=True))) == whole.evaluations
        assert mine.sequential_depth == whole.sequential_depth
        assert mine.iterations == whole.iterations
        assert same_on_all_ranks(mine.residual_norms)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("store", ["all", "c_points"])
@pytest.mark.parametrize("operator", ["rediscretised", "picard", "linear"])
def test_any_block(block: str, store: Any, operator: Any, seed: int) -> None:
    build, form, shape = BLOCKS[block]
    solver = MGRIT(coarsening=3, store=store, coarse_operator=operator, picard_order=2)
    one, many = one_and_shared(SIZES, build, seed=seed, solver=solver, form=form)
    assert_shares(one, many, SIZES, shape)


@pytest.mark.parametrize(
    "solver",
    [Serial(), MGRIT(levels=1, store="c_points"), MGRIT(coarsening=2), MGRIT(coarsening=2, coarse_operator="picard")],
    ids=repr,
)
def test_convolutions_and_single_levels(solver: Any, seed: int) -> None:
    one, many = one_and_shared(SIZES, lambda: ConvBlock(2, 2, "tanh"), seed=seed, solver=solver)
    assert_shares(one, many, SIZES, (2, 2, 3, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("block", ["dense", "step with gate and buffer"])
def test_ranks_on_a_gpu(block: str, seed: int) -> None:
    """Each on its own, or all on one, directly or staged."""
    build, form, shape = BLOCKS[block]
    one, many = one_and_shared(SIZES, build, seed=seed, solver=MGRIT(coarsening=3), form=form)
    assert_shares(one.cuda(), many.cuda(), SIZES, shape, device="cuda")


def test_the_whole_network_is_everywhere(seed: int) -> None:
    """Weights do not depend on the ranks; to_sequential and the full state are the same on all."""
    one, many = one_and_shared(SIZES, BLOCKS["step with gate and buffer"][0], seed=seed, form="step")
    whole = full_state_dict(many)
    assert whole.keys() == one.state_dict().keys()
    for name, value in one.state_dict().items():
        assert torch.equal(whole[name], value)
        assert torch.equal(many.state_dict()[name], value[part_of(SIZES)])
    x = torch.randn(2, WIDTH, dtype=torch.float64)
    assert torch.equal(many.to_sequential()(x), one.to_sequential()(x))


def test_a_state_goes_to_other_blocks(seed: int) -> None:
    others = SIZES[::-1]
    first, _ = nn.Sequential(shared(), nn.Linear(WIDTH, 1)), torch.manual_seed(seed)
    second = nn.Sequential(LayerParallel(COMM, dense, others[RANK], 1.0), nn.Linear(WIDTH, 1))
    load_full_state_dict(second, full_state_dict(first))
    came, expected = full_state_dict(second), full_state_dict(first)
    assert all(torch.equal(came[name], value) for name, value in expected.items())


def test_a_weights_file_goes_to_other_blocks(seed: int, tmp_path: Path) -> None:
    """One rank writes, all read what one process would have written; where it cannot be written all raise."""
    one, many = one_and_shared(SIZES, dense, seed=seed)
    path = Path(allgather(str(tmp_path))[0]) / "w.safetensors"
    save_weights(many, path)
    weights = pytest.importorskip("safetensors.torch", reason="needs safetensors").load_file(path)
    assert weights.keys() == one.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in one.state_dict().items())
    second = LayerParallel(COMM, dense, SIZES[::-1][RANK], 1.0)
    load_weights(second, path)
    assert all(torch.equal(value, weights[name]) for name, value in full_state_dict(second).items())
    with pytest.raises(OSError if RANK == 0 else ValueError, match="No such file"):
        save_weights(many, path.parent / "nowhere" / "w.safetensors")
    with pytest.raises(OSError, match="No such file"):
        load_weights(many, path.parent / "nowhere" / "w.safetensors")


def test_a_state_of_another_depth_is_refused() -> None:
    net = LayerParallel(COMM, dense, 4, 1.0)
    state = {name: value[:-1] for name, value in full_state_dict(net).items()}
    with pytest.raises((ValueError, RuntimeError), match=r"layers|shape"):
        load_full_state_dict(net, state)


class TestAsOthersFailed:
    """What went wrong elsewhere."""

    def test_gradients_accumulate(self) -> None:
        net, x = shared(), torch.randn(3, WIDTH, dtype=torch.float64)
        net(x).sum().backward()
        once = net.layers.linear.weight.grad.clone()  # pyright: ignore
        net(x).sum().backward()
        assert_close_relative(net.layers.linear.weight.grad, 2 * once)  # pyright: ignore

    def test_two_forwards_then_one_backward(self) -> None:
        net = shared()
        x, y = torch.randn(2, 3, WIDTH, dtype=torch.float64)

        def gradient(*losses: Tensor) -> Tensor:
            net.zero_grad()
            sum(losses).backward()  # pyright: ignore
            return net.layers.linear.weight.grad.clone()  # pyright: ignore

        apart = gradient(net(x).sum()) + gradient(net(y).square().sum())
        assert_close_relative(gradient(net(x).sum(), net(y).square().sum()), apart)

    def test_a_gradient_that_is_not_contiguous(self) -> None:
        net, x = shared(), torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(WIDTH, 3, dtype=torch.float64)
        (net(x).T * weight).sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()

    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_every_precision(self, dtype: torch.dtype) -> None:
        net = shared()
        x = torch.randn(3, WIDTH, dtype=torch.float64)
        expected = net(x)
        low = net.to(dtype)
        x_low = x.to(dtype).requires_grad_()
        y = low(x_low)
        y.sum().backward()
        assert relative_error(y, expected) < 10 * TOLERANCE[dtype]
        assert x_low.grad is not None and x_low.grad.dtype == dtype

    def test_a_smaller_last_batch(self) -> None:
        net = shared()
        for batch in (5, 5, 2, 0):
            assert net(torch.randn(batch, WIDTH, dtype=torch.float64)).shape == (batch, WIDTH)

    def test_copies_and_pickles(self) -> None:
        net, x = shared(), torch.randn(3, WIDTH, dtype=torch.float64)
        assert torch.equal(copy.deepcopy(net)(x), net(x))
        unpickled = pickle.loads(pickle.dumps(shared_by_name()))
        if SIZE > 1:
            with pytest.raises(RuntimeError, match=r"pickled on rank.*full_state_dict"):
                unpickled(x)

    def test_built_and_never_run(self) -> None:
        del_me = shared()
        del del_me


def shared_by_name() -> LayerParallel:
    return LayerParallel(COMM, dense, SIZES[RANK], 1.0)


@several
class TestBackwardRunsOnEveryRank:
    """Whatever a single rank's parameters want."""

    def test_frozen_on_one_rank(self) -> None:
        net = shared()
        net.layers.requires_grad_(RANK != 0)
        net(torch.randn(3, WIDTH, dtype=torch.float64)).sum().backward()
        assert (net.layers.linear.weight.grad is None) == (RANK == 0)  # pyright: ignore

    def test_an_input_gradient_on_one_rank(self) -> None:
        net = shared()
        net.layers.requires_grad_(False)
        x = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=RANK == SIZE - 1)
        net(x).sum().backward()
        assert (x.grad is not None) == (RANK == SIZE - 1)

    def test_a_loss_that_is_zero_on_one_rank(self) -> None:
        net = shared()
        (net(torch.randn(3, WIDTH, dtype=torch.float64)).sum() * (RANK > 0)).backward()


MISMATCHES: dict[str, Any] = {
    "Tf": lambda first: LayerParallel(COMM, dense, 4, 1.0 if first else 2.0),
    "solver": lambda first: LayerParallel(COMM, dense, 4, 1.0, solver=MGRIT(levels=2 if first else 3)),
    "scheme": lambda first: LayerParallel(COMM, dense, 4, 1.0, scheme="euler" if first else "rk4"),
    "the block": lambda first: LayerParallel(COMM, lambda: DenseBlock(4 if first else 5), 4, 1.0),
}


@several
class TestWhatRanksMustAgreeOn:
    """Every rank gets the error, and goes on."""

    @pytest.mark.parametrize("what", MISMATCHES)
    def test_arguments(self, what: str) -> None:
        with pytest.raises(ValueError) as caught:
            MISMATCHES[what](RANK == 0)
        assert_mentions(caught.value, [what, "on rank 0", "on rank 1"])

    def test_bad_arguments_of_one_rank(self) -> None:
        with pytest.raises(ValueError, match="local_num_steps is 0; expected at least 1") as caught:
            LayerParallel(COMM, dense, 4 * (RANK != 1), 1.0)
        assert RANK == 1 or "rank 1" in str(caught.value)

    def test_a_block_that_cannot_be_built_on_one_rank(self) -> None:
        def block() -> nn.Module:
            if RANK == 1:
                raise RuntimeError("no such file")
            return dense()

        with pytest.raises((RuntimeError, ValueError), match="no such file"):
            LayerParallel(COMM, block, 3, 1.0)

    def test_batch_and_solver_at_a_call(self) -> None:
        net = shared()
        with pytest.raises(ValueError, match=r"x is torch.float64 \(3, 4\) on rank 0.*\(2, 4\) on rank 1"):
            net(torch.randn(2 if RANK == 1 else 3, WIDTH, dtype=torch.float64))
        with pytest.raises(ValueError, match="the values of x"):
            net(torch.full((3, 4), float(RANK), dtype=torch.float64))
        net.solver = Serial() if RANK == 0 else MGRIT()
        with pytest.raises(ValueError, match=r"solver is Serial\(\) on rank 0, MGRIT"):
            net(torch.randn(3, WIDTH, dtype=torch.float64))

    def test_an_input_is_the_same_whatever_number_of_threads_a_rank_has(self) -> None:
        """A sum of floating-point numbers is not: it is of as many partial sums as there are threads."""
        threads, x = torch.get_num_threads(), torch.randn(64, 8192, dtype=torch.float64)
        net = LayerParallel(COMM, BLOCKS["no parameters"][0], 1, 1.0)
        torch.set_num_threads(RANK + 1)
        try:
            assert net(x).shape == x.shape
        finally:
            torch.set_num_threads(threads)

    def test_an_input_that_is_not_finite_on_one_rank(self) -> None:
        x = torch.randn(3, WIDTH, dtype=torch.float64)
        x[0, 0] = torch.nan if RANK == 1 else 0
        with pytest.raises(ValueError, match="NaN or infinite"):
            shared()(x)

    def test_divergence_is_seen_by_all(self) -> None:
        net = LayerParallel(COMM, dense, 12, 1.0, solver=MGRIT(on_divergence="raise"))
        if RANK == SIZE - 1:
            with torch.no_grad():
                net.layers.linear.weight[-1] = torch.nan  # pyright: ignore
        with pytest.raises(DivergenceError):
            net(torch.randn(3, WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("store", ["all", "c_points"])
def test_arguments_get_the_same_full_gradient_on_every_rank(store: Any, seed: int) -> None:
    """Of a tensor for all layers, of one with a part for each, and of none for a mask; whole ones on every rank."""
    solver = MGRIT(coarsening=3, store=store)
    one, many = one_and_shared(SIZES, MaskedAttention, seed=seed, solver=solver)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    x, weight = torch.randn(2, 2, 3, WIDTH, dtype=torch.float64)
    of_all = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    of_each = torch.randn(sum(SIZES), 3, 3, dtype=torch.float64, requires_grad=True)
    for bias, leaf in ((of_all, of_all), (PerLayer(of_each), of_each)):
        came, expected = (torch.autograd.grad(net(x, causal, bias=bias), leaf, weight)[0] for net in (many, one))
        assert_close_relative(came, expected)


@several
def test_arguments_that_differ_are_refused() -> None:
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    net = LayerParallel(COMM, MaskedAttention, SIZES[RANK], 1.0).double()
    with pytest.raises(ValueError, match="the arguments"):
        net(torch.randn(2, 3, WIDTH, dtype=torch.float64), mask if RANK else mask[:1])


@pytest.mark.parametrize("store", ["all", "c_points"])
@pytest.mark.parametrize("coarsening", [2, 3, 4])
def test_random_draws_are_those_of_one_process(store: Any, coarsening: int, seed: int) -> None:
    """Drawn by layer: also where only the first rank's generator is where one process's would be, and for layers of
    another rank that a coarse step spans."""
    solver = MGRIT(coarsening=coarsening, store=store, coarse_operator="picard", iterations=1)

    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.4))

    one, many = one_and_shared(SIZES, block, seed=seed, solver=solver)
    x, weight = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    torch.manual_seed(seed)
    expected = derivatives(one, x, weight)
    torch.manual_seed(seed + RANK)
    assert_same_part(derivatives(many, x, weight), expected, part_of(SIZES))
