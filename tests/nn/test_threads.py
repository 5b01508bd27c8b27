"""Threads: a network that several of them call, and what of the process a call may change meanwhile."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import Recurrent, Serial
from tests.nn.networks import WIDTH, inputs, network


class Waits(nn.Module):
    """tanh(W u); its first evaluation with another weight in its place waits for another call, or for a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def meet(self) -> None:
        if (meeting := vars(self).get("meeting")) is None:
            return
        if meeting.entered.is_set():
            meeting.other.set()
        elif not isinstance(self.linear.weight, nn.Parameter):
            meeting.entered.set()
            meeting.other.wait(0.3)

    def forward(self, u: Tensor) -> Tensor:
        self.meet()
        return torch.tanh(self.linear(u))


class WaitingCell(Waits):
    def initial_state(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.meet()
        return torch.tanh(self.linear(x + h))


class Meeting:
    def __init__(self) -> None:
        self.entered, self.other = threading.Event(), threading.Event()


def in_two_threads(block: nn.Module, call: Callable[[Any], Any], *given: Any) -> list[Any]:
    """What `call` makes of two inputs, the second one given while the first one's call is within the block."""
    meeting, results = Meeting(), [None, None]

    def run(i: int) -> None:
        try:
            results[i] = call(given[i])  # pyright: ignore
        except RuntimeError as error:
            results[i] = error  # pyright: ignore

    vars(block)["meeting"] = meeting
    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    threads[0].start()
    assert meeting.entered.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    vars(block)["meeting"] = None
    return results


def with_gradients(y: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """An output and the gradients of a loss of it, in one tensor."""
    gradients = torch.autograd.grad(y.square().sum(), weights)
    return torch.cat([each.detach().flatten() for each in (y, *gradients)])


def assert_as_alone(block: nn.Module, call: Callable[[Tensor], Tensor], *given: Tensor) -> None:
    for came, each in zip(in_two_threads(block, call, *given), given, strict=True):
        assert isinstance(came, Tensor), came
        assert torch.equal(came, call(each))


def test_two_threads_may_call_one_network() -> None:
    """As they may call an nn.Sequential: the tensors that one of them puts into the block are not the other's."""
    net = network(Waits, 8)
    weights = list(net.parameters())
    assert_as_alone(net.layers, lambda x: with_gradients(net(x), weights), inputs(), inputs())


def test_two_threads_may_call_one_recurrent_network() -> None:
    rnn = Recurrent(WaitingCell().double(), solver=Serial())
    weights = list(rnn.parameters())
    given = inputs(5, 2, WIDTH), inputs(5, 2, WIDTH)
    assert_as_alone(rnn.cells[0], lambda x: with_gradients(rnn(x)[0], weights), *given)
    assert all(one is other for one, other in zip(rnn.parameters(), weights, strict=True))


def test_a_state_dict_taken_meanwhile_is_of_the_weights() -> None:
    """As a thread that writes checkpoints takes it."""
    net, x = network(Waits, 8), inputs()
    _, state = in_two_threads(net.layers, lambda act: act(), lambda: net(x), net.state_dict)
    for name, weight in net.named_parameters():
        assert state[name].shape == weight.shape and state[name].data_ptr() == weight.data_ptr()


def test_another_threads_random_numbers_do_not_come_twice() -> None:
    """A loader's thread may draw during a call, whose own generator is none of its business."""
    drawn: list[Tensor] = []

    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, u: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: drawn.append(torch.rand(8)))
            thread.start()
            thread.join()
            return torch.tanh(self.linear(u))

    network(Draws, 4, solver=Serial())(inputs())
    drawn.append(torch.rand(8))
    numbers = torch.cat(drawn).tolist()
    assert len(set(numbers)) == len(numbers) > 16
