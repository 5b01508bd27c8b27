"""A block or cell of a user's own is left as it was, whatever it holds; what would change in it is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, Recurrent, Serial
from tests.assertions import assert_close_relative, assert_equals_serial
from tests.nn.networks import WIDTH, exactly, inputs

T = 9


class TwoNames(nn.Module):
    """One norm under two names, and one weight in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.again, self.other = self.norm, nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.linear.weight

    def initial_state(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, u: Tensor, h: Tensor | float = 0.0) -> Tensor:
        return torch.tanh(self.again(self.linear(u) + self.other(self.norm(u) + h)))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: torch.zeros(()) if theta.grad is None else theta.grad for name, theta in module.named_parameters()}


class TestAPartWithTwoNames:
    def test_of_a_block(self) -> None:
        net = LayerParallel(None, TwoNames, T, 1.0, solver=exactly(T)).double()
        before = dict(net.named_parameters())
        assert_equals_serial(net, inputs())
        assert all(theta is before[name] for name, theta in net.named_parameters())

    @pytest.mark.parametrize("solver", [Serial(), exactly(T)], ids=["serial", "MGRIT"])
    def test_of_a_cell(self, solver: Any) -> None:
        """Its gradients, which would go to a copy that is thrown away; and its parameters stay what they are."""
        cell, x = TwoNames().double(), inputs(T, 2, WIDTH)
        before = dict(cell.named_parameters())
        Recurrent(cell, solver=solver)(x)[0].square().sum().backward()
        assert all(theta is before[name] for name, theta in cell.named_parameters())
        came = gradients(cell)
        cell.zero_grad()
        h, states = torch.zeros_like(x[0]), []
        for x_t in x:
            states.append(h := cell(x_t, h))
        torch.stack(states).square().sum().backward()
        for name, expected in gradients(cell).items():
            assert_close_relative(came[name], expected, name, tolerance=1e-11)


class Counting(nn.Module):
    """Changes a buffer: in place, or by another one in its place."""

    def __init__(self, change: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(WIDTH, WIDTH), change
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def initial_state(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, u: Tensor, h: Tensor | float = 0.0) -> Tensor:
        self.change(self)
        return torch.tanh(self.linear(u)) + h


def in_place(module: nn.Module) -> None:
    module.count += 1  # pyright: ignore


def anew(module: nn.Module) -> None:
    module.count = module.count + 1  # pyright: ignore


@pytest.mark.parametrize("change", [in_place, anew])
def test_a_buffer_that_changes_is_refused(change: Callable[[nn.Module], None]) -> None:
    """A new one would be lost without a word; one changed in place, changed as often as a solve visits it."""
    with pytest.raises(RuntimeError, match=r"changes its buffers \['count'\]"):
        LayerParallel(None, lambda: Counting(change), T, 1.0).double()(inputs())
    with pytest.raises(RuntimeError, match=r"changes its buffers \['module.count'\]"):
        Recurrent(Counting(change).double())(inputs(T, 2, WIDTH))


def test_the_modes_of_a_cells_parts_stay() -> None:
    """Dropout that was frozen by .eval() stays so, in a cell that trains."""

    class Frozen(TwoNames):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5).eval()

        def forward(self, u: Tensor, h: Tensor | float = 0.0) -> Tensor:
            return super().forward(self.drop(u), h)

    frozen, x = Frozen().double(), inputs(T, 2, WIDTH)
    net = Recurrent(frozen, solver=exactly(T))
    first = net(x)[0]
    assert frozen.training and not frozen.drop.training
    assert torch.equal(net(x)[0], first)


class Pair(nn.Module):
    """A state of two tensors, handed back by whatever `returns` says."""

    def __init__(self, returns: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.returns = nn.Linear(WIDTH, WIDTH), returns

    def initial_state(self, x: Tensor) -> Any:
        return {"h": torch.zeros_like(x), "c": torch.ones_like(x)}

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> Any:
        h = torch.tanh(self.linear(x) + state["h"])
        return self.returns(h, state["c"] + h)


class TestAStateOfSeveralTensors:
    def test_is_known_by_its_names_in_any_order(self) -> None:
        x, cell = inputs(T, 2, WIDTH), Pair(lambda h, c: {"h": h, "c": c}).double()
        net = Recurrent(cell, solver=exactly(T))
        one, last = net(x)
        cell.returns = lambda h, c: {"c": c, "h": h}
        other, last_of_other = net(x)
        assert torch.equal(one, other)
        assert last.keys() == last_of_other.keys()
        assert all(torch.equal(last[name], last_of_other[name]) for name in last)

    def test_of_an_empty_batch(self) -> None:
        output, last = Recurrent(Pair(lambda h, c: {"h": h, "c": c}).double())(inputs(T, 0, WIDTH))
        assert output.shape == (T, 0, WIDTH) and last["c"].shape == (0, WIDTH)

    @pytest.mark.parametrize(
        ("returns", "words"),
        [
            (lambda h, c: (h, c), r"\(\[2, 4\], \[2, 4\]\) came; expected {'h': \[batch, 4\], 'c': \[batch, 4\]}"),
            (lambda h, c: {"h": h[:, :2], "c": c}, r"'h': \[2, 2\], 'c': \[2, 4\]} came"),
            (lambda h, c: {"h": h, "c": None}, r"'c': 'NoneType'} came"),
            (lambda h, c: {"h": h.float(), "c": c}, "a state of torch.float32, torch.float64 came"),
            (lambda h, c: {"h": h.float(), "c": c.float()}, "state's dtype from torch.float64 to torch.float32"),
        ],
        ids=["a tuple", "narrower", "None", "one of them in fp32", "both in fp32"],
    )
    def test_that_changes_is_refused(self, returns: Callable[[Tensor, Tensor], Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            Recurrent(Pair(returns).double())(inputs(T, 2, WIDTH))


class Wrapped(nn.Module):
    """A projected LSTM, as one would write it first."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(WIDTH, WIDTH)

    def initial_state(self, x: Tensor) -> Any:
        return torch.zeros_like(x), torch.zeros_like(x)

    def forward(self, x: Tensor, state: Any) -> Any:
        return self.cell(x, state)


def test_what_cannot_be_batched_is_told_with_its_cure() -> None:
    class Numpy(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return u * float(u.detach().numpy().max())

    with pytest.raises(RuntimeError, match=r"cannot batch this block.*(?s:.*)no \.numpy\(\)"):
        LayerParallel(None, Numpy, 4, 1.0)(inputs())
    with pytest.raises(RuntimeError, match=r"no batched nn\.LSTMCell: write its formula"):
        Recurrent(Wrapped().double())(inputs(T, 2, WIDTH))
