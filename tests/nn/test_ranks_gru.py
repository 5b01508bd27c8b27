"""A GRU whose sequence ranks share under MPI is that of one process. Run by tests/test_on_ranks.py."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lpgpu import GRU, LSTM, MGRIT, Recurrent, Serial
from tests.nn.ranks import COMM, RANK, SIZE, allgather, assert_near, blocks, part_of, seeds
from tests.settings import solver_options, with_delta

pytestmark = [
    pytest.mark.mpi(1, 2, 3, 4, 5),
    pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning"),
]

FEATURES, WIDTH, BATCH = 2, 4, 3
networks = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 2),
        "bidirectional": st.booleans(),
        "batch_first": st.booleans(),
        "bias": st.booleans(),
        "formulation": st.just("implicit"),
    }
)
LOSSES = ("h_n", "output", "both", "output of the first step")


class Case:
    """Data and loss weights of a whole sequence, the same on every rank."""

    def __init__(
        self, steps: int, network: dict[str, Any], loss: str, seed: int, *, lengths: bool, resets: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        directions = 2 if network["bidirectional"] else 1

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        self.network = network
        self.seed = seed
        self.x = normal(steps, BATCH, FEATURES)
        self.hx = normal(network["num_layers"] * directions, BATCH, WIDTH)
        self.of_output = normal(steps, BATCH, directions * WIDTH) * (loss != "h_n")
        self.of_h_n = normal(*self.hx.shape) * (loss in ("h_n", "both"))
        if loss == "output of the first step":
            self.of_output[1:] = 0
        self.loss = loss
        self.lengths = torch.randint(1, steps + 1, (BATCH,), generator=generator) if lengths else None
        self.resets = torch.rand(steps, BATCH, generator=generator) < 0.2 if resets else None

    def run(self, comm: Any, part: slice, solver: Any) -> dict[str, Tensor]:
        """Outputs and all gradients, of this part of the sequence."""
        torch.manual_seed(self.seed)
        gru = GRU(FEATURES, WIDTH, comm=comm, solver=solver, dtype=torch.float64, **self.network)
        x = self.x[part].transpose(0, 1).contiguous() if gru.batch_first else self.x[part].clone()
        x, hx = x.requires_grad_(), self.hx.clone().requires_grad_()
        resets = None if self.resets is None else self.resets.T if gru.batch_first else self.resets
        output, h_n = gru(x, hx, lengths=self.lengths, resets=resets)
        output = output.transpose(0, 1) if gru.batch_first else output
        # a loss of h_n alone does not touch the output, and on some ranks the first step's does not either
        loss = (h_n * self.of_h_n).sum() if self.loss in ("h_n", "both") else h_n.new_zeros(())
        loss = loss if self.loss == "h_n" else loss + (output * self.of_output[part]).sum()
        loss.backward()
        assert x.grad is not None and hx.grad is not None
        of_weights = {name: weight.grad for name, weight in gru.named_parameters() if weight.grad is not None}
        dx = x.grad.transpose(0, 1) if gru.batch_first else x.grad
        return {"output": output.detach(), "h_n": h_n.detach(), "dx": dx, "dhx": hx.grad, **of_weights}


@given(
    sizes=blocks,
    options=with_delta(solver_options(levels=4, coarsening=(2, 6)), ["none", "auto"]),
    iterations=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    network=networks,
    loss=st.sampled_from(LOSSES),
    lengths=st.booleans(),
    resets=st.booleans(),
    seed=seeds,
)
def test_outputs_and_gradients_are_those_of_one_process(
    sizes: list[int],
    options: dict[str, Any],
    iterations: tuple[int, int],
    network: dict[str, Any],
    loss: str,
    lengths: bool,
    resets: bool,
    seed: int,
) -> None:
    forward, adjoint = iterations
    solver = MGRIT(**options, iterations=forward, adjoint_iterations=adjoint)
    assert_same(Case(sum(sizes), network, loss, seed, lengths=lengths, resets=resets), sizes, solver)


@pytest.mark.parametrize("formulation", ["implicit", "classic"])
def test_serial(formulation: str, seed: int) -> None:
    sizes = [5, 1, 8, 3, 2][:SIZE]
    network = {"num_layers": 2, "bidirectional": True, "batch_first": False, "bias": True, "formulation": formulation}
    assert_same(Case(sum(sizes), network, "both", seed, lengths=True, resets=True), sizes, Serial())


def assert_same(case: Case, sizes: list[int], solver: Any) -> None:
    whole, part = slice(0, sum(sizes)), part_of(sizes)
    expected, came = case.run(None, whole, solver), case.run(COMM, part, solver)
    assert came.keys() == expected.keys()
    for name, value in expected.items():
        own = value[part] if name in ("output", "dx") else value
        assert_near(came[name], own, value, name)


@pytest.mark.skipif(SIZE == 1, reason="of several ranks")
class TestRanks:
    def test_weights_are_those_of_the_first_rank(self) -> None:
        torch.manual_seed(RANK)
        weight = GRU(2, 3, comm=COMM).weight_hh_l0.detach()
        assert all(torch.equal(weight, other) for other in allgather(weight))

    def test_dropout_differs_between_ranks(self) -> None:
        torch.manual_seed(0)
        gru = GRU(2, 64, num_layers=2, dropout=0.5, comm=COMM)
        dropped: list[Tensor] = []
        gru._solve = lambda x, *rest: dropped.append(x) or torch.ones(len(x), 1, 64)  # pyright: ignore
        gru(torch.randn(4, 1, 2))
        masks = allgather(dropped[1] == 0)
        assert not torch.equal(masks[0], masks[1])
        assert 0.3 < float(torch.stack(masks).float().mean()) < 0.7

    def test_mismatches_are_named(self) -> None:
        gru = GRU(2, 3, comm=COMM)
        with pytest.raises(ValueError, match=r"input is .* on rank 0"):
            gru(torch.randn(5, 1 + (RANK == 1), 2))
        with pytest.raises(ValueError, match="the network is"):
            GRU(2, 3 + (RANK == 1), comm=COMM)
        with pytest.raises(RuntimeError if RANK else ValueError, match="sequence length to be larger than 0"):
            gru(torch.randn(5 * (RANK == 0), 1, 2))

    @pytest.mark.parametrize("kind", [GRU, LSTM, "Recurrent"])
    def test_what_all_ranks_pass_alike_is_compared(self, kind: Any) -> None:
        """By values too, where shapes agree; and then nothing hangs."""
        net = Recurrent(nn.GRUCell(2, 3), comm=COMM) if kind == "Recurrent" else kind(2, 3, comm=COMM)
        x, resets = torch.randn(5, 4, 2), torch.zeros(5 * SIZE, 4, dtype=torch.bool)
        last = int(RANK == SIZE - 1)
        moved = resets.clone()
        moved[3 + last, 1] = True  # as many marks on every rank
        lengths = torch.full((4,), 5)
        lengths[last] = 4
        h = torch.zeros(net.num_layers, 4, 3)
        start = (h, h + last) if kind is LSTM else (h + last)[0] if kind == "Recurrent" else h + last
        with pytest.raises(ValueError, match=r"of them: resets is torch.bool .* values of digest .* rank 0"):
            net(x, resets=moved)
        with pytest.raises(ValueError, match=r"of them: lengths is torch.int64 .* \[5, 4, 5, 5\] on"):
            net(x, lengths=lengths)
        with pytest.raises(ValueError, match=r"of them: hx is torch.float32 .* on rank 0"):
            net(x, start)
        with pytest.raises(ValueError, match=r"of them: resets is"):
            net(x, resets=resets if last else resets[:-1])
        assert net(x, resets=resets, lengths=torch.full((4,), 5))[0].isfinite().all()

    def test_lengths_are_those_of_the_whole_sequence(self) -> None:
        gru = GRU(2, 3, comm=COMM)
        with pytest.raises(ValueError, match=f"lengths go from 1 to 99; expected 1 to {4 * SIZE}"):
            gru(torch.randn(4, 2, 2), lengths=torch.tensor([1, 99]))


def test_a_second_derivative_is_refused_on_every_rank() -> None:
    """Also of an exact solve; nothing hangs, and first derivatives come as before."""
    gru = GRU(FEATURES, WIDTH, comm=COMM, solver=Serial(), dtype=torch.float64)
    x = torch.randn(4, BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    if SIZE > 1:
        with pytest.raises(RuntimeError, match=r"second derivative .* of a network that several ranks share"):
            torch.autograd.grad(gru(x)[0].sum(), x, create_graph=True)
    gru(x)[0].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
