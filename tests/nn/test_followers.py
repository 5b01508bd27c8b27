"""A model whose own forward does more than hand the state from block to block is refused, not computed without it."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, parallelize, unparallelize
from lpgpu.nn import PerLayer
from tests.assertions import assert_close_relative
from tests.nn.networks import WIDTH, exactly, inputs

COUNT = 6


class Block(nn.Module):
    """Shifted and masked by arguments; a pair, or the state alone."""

    def __init__(self, index: int, *, returns_pair: bool = False) -> None:
        super().__init__()
        self.layer_idx, self.returns_pair = index, returns_pair
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor, mask: Tensor | None = None, *, shift: Any = 0.0) -> Any:
        u = u + 0.1 * torch.tanh(self.linear(u if mask is None else mask * u)) + shift
        return (u, None) if self.returns_pair else u


class Model(nn.Module):
    """`run(blocks, x)` is its forward."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **options: Any) -> None:
        super().__init__()
        self.run, self.h = run, nn.ModuleList(Block(k, **options) for k in range(COUNT))

    def forward(self, x: Tensor) -> Any:
        return self.run(self.h, x)


def chained(blocks: Any, x: Tensor, **kwargs: Any) -> Tensor:
    for block in blocks:
        x = block(x, **kwargs)
    return x


def with_pairs(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x, nothing = block(x)
        assert nothing is None
    return x


def by_number(blocks: Any, x: Tensor) -> Tensor:
    for k in range(COUNT):
        x = blocks[k](x, shift=0.5)
    return x


def with_masks_made_anew(blocks: Any, x: Tensor) -> Tensor:
    mask = torch.ones(2, WIDTH, dtype=x.dtype)
    for block in blocks:
        x = block(x, mask[0]) if block.layer_idx < 3 else block(x, torch.ones(WIDTH, dtype=x.dtype))
    return x


def zipped(blocks: Any, x: Tensor) -> Tensor:
    for block, _ in zip(blocks, range(COUNT), strict=True):
        x = block(x)
    return x


FAITHFUL = {
    "one after another": chained,
    "by number": by_number,
    "masks of equal values": with_masks_made_anew,
    "zipped": zipped,
    "a keyword": lambda blocks, x: chained(blocks, x, shift=0.3),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("run", [*FAITHFUL.values(), with_pairs], ids=[*FAITHFUL, "pairs"])
def test_a_faithful_model_runs_as_it_is(run: Callable[[Any, Tensor], Any], mode: Callable[[], Any]) -> None:
    model = Model(run, returns_pair=run is with_pairs).double()
    reference, x = copy.deepcopy(model), inputs()
    (part,) = parallelize(model, "h", solver=exactly(COUNT))
    assert len(model.h) == COUNT and part is model.h[0]
    with mode():
        assert_close_relative(model(x), reference(x))
    if mode is torch.enable_grad:
        model(x).sum().backward()
        reference(x).sum().backward()
        unparallelize(model, "h")
        for one, other in zip(model.parameters(), reference.parameters(), strict=True):
            assert_close_relative(one.grad, other.grad)  # pyright: ignore


def weighed(blocks: Any, x: Tensor) -> Tensor:
    for k, block in enumerate(blocks):
        x = block(x) * (1.0 + k)
    return x


def changed_in_place(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
        with torch.no_grad():
            x += 1
    return x


def skipping(blocks: Any, x: Tensor) -> Tensor:
    return chained([block for block in blocks if block.layer_idx != 3], x)


def backwards(blocks: Any, x: Tensor) -> Tensor:
    return chained([*blocks][::-1], x)


def twice(blocks: Any, x: Tensor) -> Tensor:
    return chained([block for block in blocks for _ in range(2)], x)


def other_arguments(blocks: Any, x: Tensor) -> Tensor:
    for k, block in enumerate(blocks):
        x = block(x, shift=0.1 * k)
    return x


def other_masks(blocks: Any, x: Tensor) -> Tensor:
    for mask, block in zip(torch.eye(COUNT, WIDTH, dtype=x.dtype), blocks, strict=True):
        x = block(x, mask)
    return x


def collecting(blocks: Any, x: Tensor) -> Tensor:
    states = []
    for block in blocks:
        x = block(x)
        states.append(x)
    return torch.stack(states)


UNFAITHFUL = {
    "weighs them": (weighed, r"h\.1 is called with another state"),
    "changes them in place": (changed_in_place, r"h\.1 is called with another state"),
    "skips a block": (skipping, r"h\.4 is called with another state.*skips blocks"),
    "goes backwards": (backwards, r"h\.5 is called with another state"),
    "calls each twice": (twice, r"h\.1 is called with another state|layers"),
    "other numbers": (other_arguments, r"h\.1 is called with other arguments.*PerLayer"),
    "other masks": (other_masks, r"h\.1 is called with other arguments.*PerLayer"),
    "collects states": (collecting, r"keeps the states between its blocks up to h\.5.*output_hidden_states"),
}


@pytest.mark.parametrize("what", UNFAITHFUL)
def test_a_model_that_does_more_is_refused(what: str) -> None:
    """It would run, and compute something else."""
    run, message = UNFAITHFUL[what]
    model = Model(run).double()
    parallelize(model, "h", solver=exactly(COUNT))
    with pytest.raises(RuntimeError, match=message):
        model(inputs())


def test_a_model_that_stops_early_is_warned_of() -> None:
    model = Model(lambda blocks, x: chained([*blocks][:4], x)).double()
    parallelize(model, "h", solver=exactly(COUNT))
    with pytest.warns(UserWarning, match=r"went no further than h\.3.*after the last block"):
        model(inputs())
        gc.collect()


def test_buffers_leave_out_what_is_treated_apart() -> None:
    """The cure that the message names."""

    def first_apart(blocks: Any, x: Tensor) -> Tensor:
        return chained([*blocks][1:], 2 * blocks[0](x))

    model = Model(first_apart).double()
    reference, x = copy.deepcopy(model), inputs()
    parallelize(model, "h", solver=exactly(COUNT), buffer=(1, 0))
    assert_close_relative(model(x), reference(x))


def test_arguments_of_each_layer_reach_it() -> None:
    shifts = torch.arange(COUNT, dtype=torch.float64)
    model = Model(lambda blocks, x: chained(blocks, x, shift=PerLayer(shifts))).double()
    expected = x = inputs()
    for block, shift in zip(model.h, shifts, strict=True):
        expected = block(expected, shift=shift)
    parallelize(model, "h", solver=exactly(COUNT))
    assert_close_relative(model(x), expected)


def test_hooks_and_calls_of_the_part_itself_see_its_result() -> None:
    model = Model(chained).double()
    (part,) = parallelize(model, "h", solver=MGRIT(coarsening=2))
    seen: list[Tensor] = []
    part.register_forward_hook(lambda module, x, y: seen.append(y.clone()))
    y = part(x := inputs())
    assert torch.equal(seen[0], y)
    assert torch.equal(model(x), y) and torch.equal(seen[1], y)


def test_copies_follow_their_own_part() -> None:
    model = Model(chained).double()
    parallelize(model, "h", solver=exactly(COUNT))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.h[0].layers.linear.bias.add_(1)  # pyright: ignore
    assert twin.h[5]._first[0] is twin.h[0]  # pyright: ignore
    assert not torch.allclose(twin(x := inputs()), model(x))
    assert model.h[4].layer_idx == 4


def test_nothing_is_kept_of_a_forward() -> None:
    model = Model(chained).double()
    parallelize(model, "h", solver=exactly(COUNT))
    y = model(x := inputs().requires_grad_())
    y.sum().backward()
    dead = weakref.ref(y)
    del y, x
    assert dead() is None
