"""What every recurrent network does: layer by layer, direction by direction, solve a cell over the steps."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator
from lpgpu.mgrit import SolveResult
from lpgpu.nn.autograd import PropagateSequence, Replicated, Results
from lpgpu.nn.block_precision import products_in, surrounding_autocast
from lpgpu.nn.cells import Cell, Masks
from lpgpu.nn.frozen_draws import draws_of_call
from lpgpu.nn.layout import Layout
from lpgpu.nn.propagation import Propagation
from lpgpu.nn.sequence_checks import fact_of_argument, fact_of_input
from lpgpu.nn.sequence_precision import Returns, SequencePrecision
from lpgpu.nn.sequence_shard import SequenceShard
from lpgpu.nn.solver_module import SolveResults, SolverModule


class SequenceModule(SolverModule):
    """A network of `num_layers` layers, each of one or two directions, whose cells `_cell` makes at every call.

    Attributes:
        forward_results, adjoint_results: of each layer (and direction) in order, its latest SolveResult, or None.
    """

    num_layers: int
    bidirectional: bool
    batch_first: bool
    dropout: float
    training: bool
    forward_results: list[SolveResult | None]
    adjoint_results: list[SolveResult | None]
    _communicator: Communicator
    _returns: Returns = "as it is"
    _called = False

    @property
    def results(self) -> SolveResults:
        """`forward_results` and `adjoint_results`, as every network has them."""
        return SolveResults(tuple(self.forward_results), tuple(self.adjoint_results))

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        raise NotImplementedError

    def _cell(self, which: int, weights: dict[str, Tensor], masks: Masks) -> Cell:
        """The cell of layer and direction `which`, with these weights."""
        raise NotImplementedError

    def _propagate(
        self,
        x: Tensor,
        hx: Sequence[Tensor],
        shard: SequenceShard,
        layout: Layout,
        lengths: Tensor | None,
        resets: Tensor | None = None,
    ) -> tuple[Any, list[Tensor]]:
        """The output, as the input came, and each last state [B, ...], of checked arguments.

        `hx` are the states to start from; `resets` [steps of all ranks, B] says where a sequence begins anew.
        """
        hx = layout.arranged(hx)
        if resets is not None:
            (resets,) = layout.arranged([resets], dim=1)
            if lengths is not None:  # past its end a sequence's state is passed on, whatever is marked there
                resets = resets & (torch.arange(shard.steps, device=x.device)[:, None] < lengths)
        weights = self._weights()
        if not shard.is_whole:
            values = Replicated.apply(shard.communicator, shard.sentinel(), *weights.values())
            weights = dict(zip(weights, values, strict=True))
        padded = None if lengths is None else shard.times(x.device)[:, None] >= lengths
        last_states = []
        for layer in range(self.num_layers):
            directions = []
            for reverse in range(self._directions):
                which = layer * self._directions + reverse
                marched = shard.reversed() if reverse else shard
                cell = self._cell(which, weights, _masks(marched, padded, resets, reverse=bool(reverse)))
                states = self._solve(x.flip(0) if reverse else x, hx[which], cell, which, marched)
                # in reverse every sequence ends at its first element
                last_states.append(marched.last_state(states, None if reverse else lengths))
                output = cell.output(states)
                directions.append(output.flip(0) if reverse else output)
            x = torch.cat(directions, -1) if self.bidirectional else directions[0]
            if padded is not None:
                x = x.masked_fill(padded.view(*padded.shape, *(1,) * (x.ndim - 2)), 0)
            if layer + 1 < self.num_layers:
                x = shard.dropout(x, self.dropout, self.training)
        if not shard.is_whole:
            x, last_states = _of_ranks(shard, x, last_states)
        return layout.output(x), layout.restored(last_states)

    def _solve(self, x: Tensor, h_0: Tensor, cell: Cell, which: int, marched: SequenceShard) -> Tensor:
        """The states h_1 … h_T of one layer in one direction, of inputs in the order they are computed in."""
        propagation = Propagation(
            num_steps=marched.steps,
            partition=marched.partition,
            solver=self.solver,
            communicator=marched.communicator,
            forward_done=lambda result: self.forward_results.__setitem__(which, result),
            adjoint_done=lambda result: self.adjoint_results.__setitem__(which, result),
            differentiable=torch.is_grad_enabled(),
            plain=cell.plain,
            graphs=self.graphs,
            module=self if cell.module is None else cell.module,
        )
        cell.low = self._precision().low
        with products_in(cell.low, x.device.type):
            inputs = cell.inputs(x)
        if cell.low is not None:
            inputs, h_0 = (each.to(cell.states_in(h_0)) for each in (inputs, h_0))
        tensors = (inputs, h_0, *cell.weights)
        with draws_of_call(marched.communicator) if cell.may_draw else nullcontext() as cell.draws:
            cell.first = marched.first
            return PropagateSequence.apply(propagation, cell, propagation.sentinel(), *tensors)

    def _precision(self, input: Any = None, hx: Any = None) -> SequencePrecision:
        """That of a call with these arguments."""
        return SequencePrecision.of_call(next(self.parameters(), None), self._returns, input, hx)

    def _as_own(self, given: Any, dtype: torch.dtype, low: torch.dtype) -> Any:
        """As it came: the precision of what is returned depends on it."""
        return given

    def _share_weights(self, communicator: Communicator) -> None:
        """Give all ranks the weights of the first. Collective."""
        named = {name: f"{weight.dtype} {tuple(weight.shape)}" for name, weight in self.named_parameters()}
        communicator.agree(lambda: None, lambda: {"the network": self.extra_repr(), "the weights": named})
        for weight in self.parameters():
            weight.data = communicator.broadcast(weight.data, 0)

    def to_torch(self) -> nn.Module:
        """An independent copy as plain PyTorch, exact, for inspection, export and deployment; whole on every rank.

        Raises:
            NotImplementedError: where there is no such module.
        """
        raise NotImplementedError(f"{type(self).__name__} has no plain PyTorch module; use solver = Serial()")

    def to_sequential(self) -> nn.Module:
        """`to_torch()`, by the name that it has of a LayerParallel network."""
        return self.to_torch()

    def _given_to(self, plain: nn.Module) -> nn.Module:
        """`plain` with copies of these weights, in the same mode."""
        plain.load_state_dict({name: weight.detach() for name, weight in self._weights().items()})
        for name, weight in self._weights().items():
            plain.get_parameter(name).requires_grad_(weight.requires_grad)
        return plain.train(self.training)

    def _agree(self, check: Callable[[], object], input: Any, **alike: Any) -> None:
        """Run `check` of a call's arguments, and compare what must be the same on every rank. Collective.

        Of `input` each rank has its own steps; what is `alike` must be the same, of tensors on a GPU the values too at
        the first call only, as that waits for it.

        Raises:
            Exception: see `Communicator.agree`.
        """
        wait, self._called = not self._called, True

        def facts() -> dict[str, object]:
            of_call: dict[str, object] = {name: fact_of_argument(value, wait=wait) for name, value in alike.items()}
            return of_call | {
                "input": fact_of_input(input, batch_first=self.batch_first),
                "solver": self.solver,
                "training": self.training,
                "whether gradients are enabled": torch.is_grad_enabled(),
                "autocast": surrounding_autocast(),
            }

        self._communicator.agree(check, facts)

    def _no_results(self) -> None:
        self.forward_results = [None] * (self.num_layers * self._directions)
        self.adjoint_results = [None] * (self.num_layers * self._directions)


def _masks(marched: SequenceShard, padded: Tensor | None, resets: Tensor | None, *, reverse: bool) -> Masks:
    """Those of this rank's steps, in the order in which they are marched."""
    if padded is not None:
        padded = (padded.flip(0) if reverse else padded)[..., None]
    if resets is not None:
        if reverse:  # read from the end, a sequence begins with the element before the next one's first
            resets = torch.cat([resets[1:], resets.new_zeros(1, *resets.shape[1:])]).flip(0)
        resets = resets[marched.first :, :, None]
    return Masks(padded, resets)


def _of_ranks(shard: SequenceShard, output: Tensor, last_states: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """This rank's output, and the last states of all, which are zero where they are not here."""
    together = torch.cat([h.flatten(1) for h in last_states], -1)
    output, together = Results.apply(shard.communicator, shard.sentinel(), output, together)
    parts = together.split([h[0].numel() for h in last_states], -1)
    return output, [part.view_as(h) for part, h in zip(parts, last_states, strict=True)]
