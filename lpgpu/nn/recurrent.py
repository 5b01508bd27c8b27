"""Recurrent: any cell(x_t, h) → h over a sequence, propagated in parallel over its steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lpgpu.comm import as_communicator
from lpgpu.mgrit import MGRIT, Solver
from lpgpu.nn.cells import Cell, FrozenGatesGRUCell, LSTMCell, Masks, ModuleCell
from lpgpu.nn.exclusively import parameters_of
from lpgpu.nn.layout import Layout
from lpgpu.nn.packing import Packing
from lpgpu.nn.sequence import SequenceModule
from lpgpu.nn.sequence_checks import check_tensor, checked_lengths, checked_resets
from lpgpu.nn.sequence_shard import SequenceShard

_FORMULAS = {nn.LSTMCell: LSTMCell, nn.GRUCell: FrozenGatesGRUCell}  # whose own operations torch.vmap cannot batch


class Recurrent(SequenceModule):
    """h_{k+1} = cell(x_k, h_k) for any cell, k = 0 … T−1, solved by MGRIT over the steps, forward and backward.

    A cell is an nn.Module called as cell(x_t, h), with x_t [B, ...] and a state h that it returns anew: a tensor
    [B, ...], or a tuple, list or dict of such, as torch.nn.LSTMCell's (h, c). It must be a pure function that
    `torch.vmap` can batch over the steps. On coarse levels a step over m elements is `cell.coarse(x_t, h, m)` where the
    cell has such a method, with the first of the m inputs; else the cell itself, once, which suits cells that forget
    within an interval. A good coarse step is the difference between one cycle and ten: see docs/models.md. Under
    torch.autocast cells compute as it says, while states, and so the results, keep the precision of the weights.

    Args:
        cell: the cell, or several, for stacked layers: the output of each is the input of the next.
        reverse: as many cells again, which read the sequence from its end: outputs are side by side, as of a
            bidirectional torch.nn.GRU. None: one direction.
        batch_first: input and output are [B, T, ...] instead of [T, B, ...].
        dropout: of the output of every layer but the last, in training.
        comm: None, or a communicator whose ranks share the sequence, as for `lpgpu.GRU`.
        solver: MGRIT(...), Parareal(...) or Serial(); may be assigned between calls.

    Attributes:
        forward_results, adjoint_results: of each layer (and direction) in order, its latest SolveResult, or None.

    Raises:
        TypeError, ValueError: for arguments that make no network, saying what came and what was expected.

    >>> rnn = Recurrent(nn.LSTMCell(3, 8), solver=MGRIT(coarsening=4, iterations=2))
    >>> output, (h_n, c_n) = rnn(torch.randn(20, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([20, 2, 8]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        cell: nn.Module | Sequence[nn.Module],
        *,
        reverse: nn.Module | Sequence[nn.Module] | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        comm: Any = None,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        forwards, backwards = _as_cells("cell", cell), _as_cells("reverse", reverse)
        if backwards and len(backwards) != len(forwards):
            raise ValueError(f"reverse has {len(backwards)} cells, cell {len(forwards)}; expected as many")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected a number within [0, 1)")
        self._communicator = as_communicator(comm)
        self.num_layers, self.bidirectional = len(forwards), bool(backwards)
        self.batch_first, self.dropout = batch_first, dropout
        in_order = [each for pair in zip(forwards, backwards, strict=True) for each in pair] if backwards else forwards
        self.cells = nn.ModuleList(in_order)
        self.solver = MGRIT() if solver is None else solver
        self._share_weights(self._communicator)
        self._no_results()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """All states of the last layer, and every layer's last one.

        Args:
            input: [T, B, ...], or [B, T, ...] with `batch_first`, or a PackedSequence.
            hx: the state to start from, like that of the cell; of several layers or directions a list of such. None:
                what `cell.initial_state(x_0)` gives, or zeros of the `hidden_size` of PyTorch's own cells.
            lengths: [B], the number of valid elements of each padded sequence; None: all. Beyond its length a
                sequence's output is zero, and its last state is that at its length.
            resets: boolean, like the input's first two dimensions: where it is true a new sequence begins, so that the
                state that arrives there counts as zero. Where ranks share the sequence, lengths and resets are those of
                all of it.

        Returns:
            output [T, B, ...] (as `input` in order and kind): the state, or the first tensor of a state of several; and
            the last state, like the cell's, or a list of such, as for `hx`.

        Raises:
            TypeError, ValueError: for tensors that do not fit, and for cells that do not keep their state's structure.
            NotImplementedError: inside a transform of torch.func, such as vmap.
        """
        input, hx = self._precision(input, hx).taken((input, hx))
        given, lengths, layout = Layout.taken(input, lengths, batch_first=self.batch_first)
        checked: list[Any] = []

        def check() -> None:
            layout.check(self._communicator.size)
            checked.extend(self._checked(given, hx))

        self._agree(check, given, hx=hx, lengths=lengths, resets=resets)
        x, packings, initial = checked
        self._packings: list[Packing] = packings
        shard = SequenceShard.of(self._communicator, x)
        lengths = None if lengths is None else checked_lengths(lengths, shard.steps, x)
        resets = None if resets is None else checked_resets(resets, shard.steps, x, layout)
        output, last = self._propagate(x, initial, shard, layout, lengths, resets)
        h_n = [packing.unpack(h) for packing, h in zip(packings, last, strict=True)]
        return output, h_n if len(h_n) > 1 else h_n[0]

    def extra_repr(self) -> str:
        return f"batch_first={self.batch_first}, dropout={self.dropout}, solver={self.solver}"

    def _weights(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": w for i, cell in enumerate(self.cells) for name, w in parameters_of(cell).items()}

    def _cell(self, which: int, weights: dict[str, Tensor], masks: Masks) -> Cell:
        prefix, module = f"{which}.", self.cells[which]
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if type(module) in _FORMULAS:
            of_input = own.pop("weight_ih"), own.pop("bias_ih", None)
            return _FORMULAS[type(module)](of_input, own, masks)
        return ModuleCell(module, own, self._packings[which], masks)

    def _checked(self, input: Any, hx: Any) -> tuple[Tensor, list[Packing], list[Tensor]]:
        """Input as [T, B, ...], how each cell's state is packed, and the states to start from."""
        check_tensor("input", input, next(self.parameters(), None))
        if input.ndim < 3:
            order = "[B, T, ...]" if self.batch_first else "[T, B, ...]"
            raise ValueError(
                f"input is {tuple(input.shape)}; expected {order}, at least three dimensions: a batch of one sequence, "
                "or features of one number, too"
            )
        x = input.transpose(0, 1) if self.batch_first else input
        if not len(x):
            raise ValueError(f"input is {tuple(input.shape)}; expected at least one time step")
        count = len(self.cells)
        given = [None] * count if hx is None else [hx] if count == 1 else list(hx)
        if len(given) != count:
            raise ValueError(f"hx holds {len(given)} states; expected {count}, one for each layer and direction")
        states = [_initial(cell, x, h) for cell, h in zip(self.cells, given, strict=True)]
        packings = [Packing.of(state, "the state of a cell") for state in states]
        packed = [packing.pack(state) for packing, state in zip(packings, states, strict=True)]
        for h in packed:
            if len(h) != x.shape[1]:
                raise ValueError(f"hx is of {len(h)} sequences, input of {x.shape[1]}")
        return x, packings, packed


def _as_cells(name: str, cells: Any) -> list[nn.Module]:
    if cells is None:
        return []
    of_name = list(cells) if isinstance(cells, list | tuple | nn.ModuleList) else [cells]
    for each in of_name:
        if not isinstance(each, nn.Module):
            came = each.__name__ if isinstance(each, type) else type(each).__name__
            raise TypeError(f"{name} is or holds {came}; expected an nn.Module called as cell(x_t, h), or several")
        if isinstance(each, nn.RNNBase):
            kind = type(each).__name__
            raise TypeError(f"{name} is or holds nn.{kind}, a whole network; expected a cell, such as nn.{kind}Cell")
    if not of_name:
        raise ValueError(f"{name} holds no cell; expected at least one")
    return of_name


def _initial(cell: nn.Module, x: Tensor, given: Any) -> Any:
    """The state that a cell starts from: `given`, which is to be like the cell's own, or that."""
    own = _own_initial(cell, x)
    if given is None and own is None:
        raise ValueError(
            f"{type(cell).__name__} does not say which state it starts from; pass hx, or give it a method "
            "initial_state(x_0) that returns one"
        )
    if given is not None and own is not None:
        Packing.of(own, "initial_state").check(given, "hx")
    return own if given is None else given


def _own_initial(cell: nn.Module, x: Tensor) -> Any:
    """What a cell says that it starts from; None where it does not."""
    if callable(initial_state := getattr(cell, "initial_state", None)):
        return initial_state(x[0])
    if isinstance(cell, nn.RNNCellBase):
        weight = next(cell.parameters())
        zero = torch.zeros(x.shape[1], cell.hidden_size, dtype=weight.dtype, device=weight.device)
        return (zero, zero.clone()) if isinstance(cell, nn.LSTMCell) else zero
    return None
