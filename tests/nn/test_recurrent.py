"""Recurrent: any cell over a sequence, against the cell in a loop."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

from lpgpu import MGRIT, Recurrent, Serial
from tests.assertions import assert_close_relative, assert_mentions, relative_error
from tests.nn.networks import exactly

T, B, F, H = 21, 3, 2, 4

SOLVERS = {
    "all states": exactly(T),
    "C-points": exactly(T, store="c_points"),
    "three levels, F": MGRIT(levels=3, coarsening=2, cycle="F", iterations=6, adjoint_iterations=6),
    "serial": Serial(),
}


class Elman(nn.Module):
    """h⁺ = tanh(W x + V h), normalised."""

    def __init__(self, features: int = F) -> None:
        super().__init__()
        self.w, self.v, self.norm = nn.Linear(features, H), nn.Linear(H, H, bias=False), nn.LayerNorm(H)

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.w(x) + self.v(h)))


class Filter(nn.Module):
    """A state that is a dict: a matrix and a vector, the latter fading, with a coarse step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(F, 3)
        self.rate = nn.Parameter(torch.randn(3))

    def initial_state(self, x: Tensor) -> dict[str, Tensor]:
        return {"vector": x.new_ones(len(x), 3), "matrix": x.new_zeros(len(x), 3, 2)}

    def forward(self, x: Tensor, h: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.coarse(x, h, 1)

    def coarse(self, x: Tensor, h: dict[str, Tensor], m: int) -> dict[str, Tensor]:
        a = torch.sigmoid(self.rate)
        vector = a**m * h["vector"] + (1 - a**m) * torch.tanh(self.w(x))
        return {"vector": vector, "matrix": 0.5**m * h["matrix"] + torch.sin(vector[:, :, None] * x[:, None])}


CELLS = {"LSTMCell": lambda: nn.LSTMCell(F, H), "GRUCell": lambda: nn.GRUCell(F, H), "Elman": Elman, "Filter": Filter}


def loop(cell: nn.Module, x: Tensor, h: Any, resets: Tensor | None = None) -> tuple[Tensor, Any]:
    """All first tensors of the states, and the last state."""
    outputs = []
    for k, x_k in enumerate(x):
        if resets is not None:
            keep = ~resets[k]
            h = tree_map(lambda s: s * keep.view(-1, *(1,) * (s.ndim - 1)), h)  # noqa: B023
        h = cell(x_k, h)
        outputs.append(tree_leaves(h)[0])
    return torch.stack(outputs), h


def start(cell: nn.Module, batch: int = B) -> Any:
    """A state to start from that is not zero."""
    if isinstance(cell, nn.RNNCellBase):
        h = [torch.randn(batch, H, dtype=torch.float64) for _ in range(2)]
        return tuple(h) if isinstance(cell, nn.LSTMCell) else h[0]
    like = cell.initial_state(torch.zeros(batch, F, dtype=torch.float64))  # pyright: ignore
    return tree_map(torch.randn_like, like)


def assert_same(came: Any, expected: Any, leaves: list[Tensor]) -> None:
    """Fails unless two (output, last state) and their gradients of a random loss agree."""
    values, others = tree_leaves(came), tree_leaves(expected)
    weights = [torch.randn_like(each) for each in others]
    gradients = []
    for each in (values, others):
        loss = sum(((value * w).sum() for value, w in zip(each, weights, strict=True)), torch.zeros(()))
        gradients.append(torch.autograd.grad(loss, leaves))
    for one, other in [*zip(values, others, strict=True), *zip(*gradients, strict=True)]:
        assert_close_relative(one, other)


def sequences(*shape: int) -> Tensor:
    return torch.randn(*(shape or (T, B, F)), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_any_cell_is_its_loop(cell: str, solver: Any) -> None:
    module, x = CELLS[cell]().double(), sequences()
    h = start(module)
    came = Recurrent(module, solver=solver)(x, h)
    assert_same(came, loop(module, x, h), [x, *module.parameters()])


@pytest.mark.parametrize("cell", CELLS)
def test_resets_begin_a_new_sequence(cell: str) -> None:
    """Whatever their place in an interval; on two coarse levels; h_0 is reset too."""
    module, x = CELLS[cell]().double(), sequences()
    h, resets = start(module), torch.rand(T, B) < 0.2
    solver = MGRIT(levels=3, coarsening=3, iterations=4, adjoint_iterations=4)
    came = Recurrent(module, solver=solver)(x, h, resets=resets)
    assert_same(came, loop(module, x, h, resets), [x, *module.parameters()])


def test_a_coarse_step_knows_of_resets_between_its_ends() -> None:
    """With one in every interval the intervals are independent: without a cycle all is exact but its first interval."""
    module, x = nn.LSTMCell(F, H).double(), sequences(24, B, F)
    resets = torch.zeros(24, B, dtype=torch.bool)
    resets[2::4] = True
    net = Recurrent(module, solver=MGRIT(levels=2, coarsening=4, relaxation="F", iterations=1))
    zero = tuple(torch.zeros(B, H, dtype=torch.float64) for _ in range(2))
    assert_close_relative(net(x, resets=resets)[0], loop(module, x, zero, resets)[0])


@pytest.mark.parametrize("cell", ["LSTMCell", "Elman"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_and_packed_input(cell: str, batch_first: bool) -> None:
    """Each sequence by itself; a PackedSequence comes back as one."""
    module = CELLS[cell]().double()
    pieces = [sequences(n, F) for n in (9, 21, 14)]
    packed = pack_sequence([each.detach() for each in pieces], enforce_sorted=False)
    x, lengths = pad_packed_sequence(packed, batch_first)
    net = Recurrent(module, batch_first=batch_first, solver=exactly(T))
    output, last = net(x, lengths=lengths)
    zero = tree_map(lambda s: torch.zeros_like(s[:1]), start(module))
    alone = [loop(module, each[:, None], zero) for each in pieces]
    for b, (y, h) in enumerate(alone):
        mine = output[b] if batch_first else output[:, b]
        assert_close_relative(mine[: len(y)], y[:, 0])
        assert not mine[len(y) :].any()
        for one, other in zip(tree_leaves(last), tree_leaves(h), strict=True):
            assert_close_relative(one[b], other[0])
    from_packed, last_of_packed = net(packed)
    assert_close_relative(pad_packed_sequence(from_packed, batch_first)[0], output)
    for one, other in zip(tree_leaves(last_of_packed), tree_leaves(last), strict=True):
        assert_close_relative(one, other)


def test_layers_and_directions() -> None:
    """Stacked and bidirectional, as PyTorch's own network of the same cells."""
    torch_lstm = nn.LSTM(F, H, 2, bidirectional=True).double()
    forwards, backwards = [], []
    for layer in range(2):
        for suffix, cells in (("", forwards), ("_reverse", backwards)):
            cell = nn.LSTMCell(F if layer == 0 else 2 * H, H).double()
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(cell, kind, nn.Parameter(getattr(torch_lstm, f"{kind}_l{layer}{suffix}").detach().clone()))
            cells.append(cell)
    net, x = Recurrent(forwards, reverse=backwards, solver=exactly(T)), sequences()
    output, states = net(x)
    expected, (h_n, c_n) = torch_lstm(x)
    assert_close_relative(output, expected)
    for which, (h, c) in enumerate(states):
        assert_close_relative(h, h_n[which])
        assert_close_relative(c, c_n[which])
    assert len(net.forward_results) == 4


def test_resets_and_lengths_in_both_directions() -> None:
    """Read from its end, a sequence begins where the one before it ends."""
    forward, backward, x = Elman().double(), Elman().double(), sequences(12, 1, F)
    resets = torch.zeros(12, 1, dtype=torch.bool)
    resets[5] = True
    output, _ = Recurrent(forward, reverse=backward, solver=exactly(12))(x, resets=resets)
    zero = torch.zeros(1, H, dtype=torch.float64)
    for part in (slice(0, 5), slice(5, 12)):
        assert_close_relative(output[part, :, :H], loop(forward, x[part], zero)[0])
        assert_close_relative(output[part, :, H:], loop(backward, x[part].flip(0), zero)[0].flip(0))


def test_few_cycles_are_near() -> None:
    """An LSTM's frozen gates, on weights as PyTorch draws them: of 60 draws the median is 2e-3, the worst 7e-2."""
    module, x = nn.LSTMCell(F, H).double(), sequences(128, B, F)
    net = Recurrent(module, solver=MGRIT(levels=2, coarsening=8, iterations=1, adjoint_iterations=1))
    zero = tuple(torch.zeros(B, H, dtype=torch.float64) for _ in range(2))
    expected = loop(module, x, zero)[0]
    assert 1e-12 < relative_error(net(x)[0], expected) < 0.2


def test_second_derivatives_of_exact_propagation() -> None:
    net, x = Recurrent(Elman().double(), solver=Serial()), sequences(4, 2, F)
    assert torch.autograd.gradgradcheck(lambda x: net(x)[0], (x,))


def test_it_trains_and_keeps_its_state_dict() -> None:
    net = Recurrent(nn.LSTMCell(F, H))
    assert set(net.state_dict()) == {f"cells.0.{k}_{g}" for k in ("weight", "bias") for g in ("ih", "hh")}
    x = torch.randn(T, B, F)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (net(x)[0] - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


class Grows(nn.Module):
    def initial_state(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.cat([h, h], -1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: Recurrent(nn.LSTMCell), TypeError, ["cell"]),  # pyright: ignore
            (lambda: Recurrent([torch.tanh]), TypeError, ["builtin", "cell(x_t, h)"]),  # pyright: ignore
            (lambda: Recurrent(nn.GRU(F, H)), TypeError, ["nn.GRU, a whole network", "nn.GRUCell"]),
            (lambda: Recurrent([]), ValueError, ["no cell"]),
            (lambda: Recurrent(Elman(), reverse=[Elman(), Elman()]), ValueError, ["2 cells", "1"]),
            (lambda: Recurrent(Elman(), dropout=1.5), ValueError, ["dropout is 1.5"]),
            (lambda: Recurrent(Elman(), solver="mgrit"), TypeError, ["solver is 'mgrit'"]),  # pyright: ignore
        ],
    )
    def test_arguments(self, make: Any, error: Any, words: list[str]) -> None:
        with pytest.raises(error) as caught:
            make()
        assert_mentions(caught.value, words)

    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda net, x: net([1.0]), TypeError, ["list"]),
            (lambda net, x: net(x.float()), ValueError, ["float32", "float64"]),
            (lambda net, x: net(x[:0]), ValueError, ["at least one time step"]),
            (lambda net, x: net(x[0, 0]), ValueError, ["(2,)", "[T, B, ...]"]),
            (lambda net, x: net(x[:, 0]), ValueError, ["(21, 2)", "[T, B, ...]", "three dimensions"]),
            (
                lambda net, x: net(x, torch.zeros(3, H + 1, dtype=x.dtype)),
                ValueError,
                ["hx is [batch, 5]", "[batch, 4]"],
            ),
            (lambda net, x: net(x, (x[0], x[0])), ValueError, ["hx is ([batch, 2], [batch, 2])", "[batch, 4]"]),
            (lambda net, x: net(x * torch.nan), ValueError, ["NaN"]),
            (lambda net, x: net(x, torch.zeros(5, H, dtype=x.dtype)), ValueError, ["5 sequences", "3"]),
            (lambda net, x: net(x, lengths=torch.tensor([1, 2])), ValueError, ["(2,)", "(3,)"]),
            (lambda net, x: net(x, lengths=torch.tensor([1, 2, 22])), ValueError, ["22", "21"]),
            (lambda net, x: net(x, resets=torch.zeros(T, B)), ValueError, ["float32", "torch.bool"]),
            (lambda net, x: net(x, resets=[True]), TypeError, ["list"]),
        ],
    )
    def test_calls(self, call: Any, error: Any, words: list[str]) -> None:
        with pytest.raises(error) as caught:
            call(Recurrent(Elman().double()), sequences())
        assert_mentions(caught.value, words)

    def test_a_cell_that_does_not_say_where_it_starts(self) -> None:
        with pytest.raises(ValueError, match=r"initial_state\(x_0\)"):
            Recurrent(nn.Bilinear(F, H, H).double())(sequences())

    def test_a_cell_that_does_not_keep_its_state(self) -> None:
        with pytest.raises(ValueError, match="every step must keep the state's structure and shapes"):
            Recurrent(Grows())(sequences())


def test_a_frozen_part_of_a_cell_stays_frozen() -> None:
    """`eval()` of a part of a cell that trains is its owner's choice, not the network's."""

    class Dropped(Elman):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5).eval()

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.drop(super().forward(x, h))

    cell = Dropped().double()
    rnn, x = Recurrent(cell, solver=Serial()), torch.randn(T, B, F, dtype=torch.float64)
    assert torch.equal(rnn(x)[0], rnn(x)[0])
    assert cell.training and not cell.drop.training


@pytest.mark.parametrize("cell", [lambda: Elman(H), lambda: nn.GRUCell(H, H)], ids=["module", "formula"])
def test_layers_may_share_a_cell(cell: Any) -> None:
    """Its gradient is that of both."""
    shared = cell().double()
    rnn, x = Recurrent([shared, shared], solver=exactly(T)), torch.randn(T, B, H, dtype=torch.float64)
    h_0 = [torch.zeros(B, H, dtype=torch.float64)] * 2

    def looped(x: Tensor) -> Tensor:
        h, states = h_0[0], []
        for x_t in x:
            h = shared(x_t, h)
            states.append(h)
        return torch.stack(states)

    weights = list(shared.parameters())
    came = torch.autograd.grad(rnn(x, h_0)[0].square().sum(), weights)
    expected = torch.autograd.grad(looped(looped(x)).square().sum(), weights)
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other)
