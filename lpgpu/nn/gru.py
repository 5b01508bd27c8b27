"""GRU: a drop-in for torch.nn.GRU that is propagated in parallel over the sequence."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lpgpu.comm import as_communicator
from lpgpu.kernels.implicit_gru import FORMULATIONS
from lpgpu.mgrit import MGRIT, Solver
from lpgpu.nn.cells import GRUCell, Masks
from lpgpu.nn.checks import check_ordinary
from lpgpu.nn.layout import Layout
from lpgpu.nn.plain_gru import PlainGRU
from lpgpu.nn.sequence import SequenceModule
from lpgpu.nn.sequence_checks import checked_lengths, checked_resets
from lpgpu.nn.sequence_shard import SequenceShard


class GRU(SequenceModule, nn.GRU):
    """torch.nn.GRU, propagated by MGRIT over the time steps, forward and backward, in training and in eval: equal to
    torch.nn.GRU up to the solver's error, with `solver=Serial()` to rounding.

    How large that error is depends on the weights: `lpgpu.verify` measures it, `lpgpu.tune` finds the cheapest solver
    within a bound. Arguments, parameters, gate order (r, z, n) and initialisation are torch.nn.GRU's, and state_dicts
    load both ways. `formulation="implicit"` is the cell h⁺ = (h + d ⊙ n)/(1 + d), d = Δt (1 − z), of Moon & Cyr,
    "Parallel training of GRU networks with a multi-grid solver for long sequences", ICLR 2022: another network, of the
    same parameters. With `Serial()` on one process it is twice differentiable (`create_graph=True`); an inexact solve
    refuses it. Under torch.autocast products are in its dtype, gradients of the weights in theirs, and results of the
    dtype that torch.nn.GRU returns: docs/gru.md.

    Args:
        formulation: "classic", torch.nn.GRU's cell, or "implicit".
        dt: Δt > 0, the time between two elements of the sequence.
        comm: None, an mpi4py communicator or a process group of torch.distributed, whose ranks share the sequence:
            `input` and `output` are this rank's shard of it, rank 0's first; shards may differ in length. All ranks
            hold the weights and get the same, full gradient. Every rank makes the same calls, backward too, and passes
            the same `hx`, and `lengths` and `resets` of the whole sequence. A loss of `h_n`, which is the same on all,
            counts once; a loss of `output` is each rank's own, and they add up.
        solver: MGRIT(...), Parareal(...) or Serial(); may be assigned between calls. Δ-correction is on by default. All
            states are the output and are kept; `store="c_points"` saves their gates.

    Attributes:
        forward_results, adjoint_results: of each layer (and direction) in order, its latest SolveResult, or None.

    >>> gru = GRU(3, 8, num_layers=2, solver=MGRIT(levels=2, coarsening=8, iterations=1))
    >>> output, h_n = gru(torch.randn(64, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([64, 5, 8]), torch.Size([2, 5, 8]))
    >>> [result.sequential_depth for result in gru.results.forward], "of", len(output)
    ([39, 39], 'of', 64)

    Raises:
        ValueError, TypeError: for arguments that make no network, saying what came and what was expected.
    """

    _returns = "like the state"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        formulation: Literal["implicit", "classic"] = "classic",
        dt: float = 1.0,
        comm: Any = None,
        solver: Solver | None = None,
        device=None,
        dtype=None,
        proj_size: None = None,
    ) -> None:
        if proj_size is not None:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if formulation not in FORMULATIONS:
            raise ValueError(f"formulation is {formulation!r}; expected one of {', '.join(map(repr, FORMULATIONS))}")
        if isinstance(dt, bool) or not isinstance(dt, int | float) or not 0 < dt < math.inf:
            raise ValueError(f"dt is {dt!r}; expected a finite number > 0")
        communicator = as_communicator(comm)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype
        )
        self._communicator = communicator
        self.formulation = formulation
        self.dt = float(dt)
        self.solver = MGRIT() if solver is None else solver
        self._share_weights(communicator)
        self._no_results()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """All states of the last layer, and every layer's last one.

        Args:
            input: [T, B, input_size], [B, T, input_size] with `batch_first`, [T, input_size] unbatched, or packed.
            hx: the states to start from, [layers · directions, B, hidden_size]; None: zero.
            lengths: [B], the number of valid elements of each padded sequence, in any order; None: all of them. Beyond
                its length a sequence's output is zero, and its last state is that at its length. Where ranks share the
                sequence it is the whole one's. On a GPU they are best given on the CPU: there they can be checked
                without waiting for it.
            resets: boolean, like the first two dimensions of `input`: where a new sequence begins, so that the state
                that arrives there, and every derivative by it, counts as zero; the output before it stays. Where ranks
                share the sequence they are those of all of it. With resets a GPU marches step by step, in a launch for
                each, as the fused sweeps know of none.

        Returns:
            output [T, B, directions · hidden_size] (as `input` in order, batching and packing), and h_n like `hx`.

        Raises:
            RuntimeError, ValueError: as torch.nn.GRU, for shapes and dtypes that it refuses; for tensors that are not
                dense or have no values (meta), lengths or resets that do not fit, lengths beside a PackedSequence, a
                PackedSequence where ranks share the sequence, and on a CPU for an `input` (padding too) or `hx` that is
                not finite.
            NotImplementedError: inside a transform of torch.func, such as vmap.
        """
        precision = self._precision(input, hx)
        input, hx = precision.taken((input, hx))
        given, lengths, layout = Layout.taken(input, lengths, batch_first=self.batch_first)
        checked: list[Any] = []

        self._agree(
            lambda: checked.extend(self._checked(given, hx, layout)), given, hx=hx, lengths=lengths, resets=resets
        )
        x, initial, layout = checked
        shard = SequenceShard.of(self._communicator, x)
        lengths = None if lengths is None else checked_lengths(lengths, shard.steps, x)
        if resets is not None:
            resets = checked_resets(resets, shard.steps, x, layout)
        output, last_states = self._propagate(x, initial.unbind(), shard, layout, lengths, resets)
        h_n = torch.stack(last_states)
        return precision.returned((output, h_n if layout.batched else h_n.squeeze(1)))

    def to_torch(self) -> nn.Module:
        """An independent copy as plain PyTorch, exact, for inspection, export and deployment: on every rank the whole.

        A torch.nn.GRU where that is the cell (classic, Δt = 1); else a `PlainGRU`, a loop over the steps.
        """
        if self.formulation != "classic" or self.dt != 1:
            return PlainGRU(self, self._weights(), self.formulation, self.dt)
        options = (self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first, self.dropout)
        like = next(self.parameters())
        gru = nn.GRU(*options, self.bidirectional, device="meta", dtype=like.dtype).to_empty(device=like.device)
        return self._given_to(gru)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, formulation={self.formulation!r}, dt={self.dt}, solver={self.solver}"

    def _weights(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for names in self._all_weights for name in names}

    def _cell(self, which: int, weights: dict[str, Tensor], masks: Masks) -> GRUCell:
        layer, reverse = divmod(which, self._directions)
        suffix = f"l{layer}" + ("_reverse" if reverse else "")
        of_input = weights[f"weight_ih_{suffix}"], weights.get(f"bias_ih_{suffix}")
        of_state = [weights[name] for name in (f"weight_hh_{suffix}", f"bias_hh_{suffix}") if name in weights]
        return GRUCell(of_input, tuple(of_state), dt=self.dt, formulation=self.formulation, masks=masks)

    def _checked(self, input: Any, hx: Any, layout: Layout) -> tuple[Tensor, Tensor, Layout]:
        """Input as [T, B, input_size], states to start from, and how the input came."""
        layout.check(self._communicator.size)
        for name, tensor in (("input", input), ("hx", hx)):
            if not isinstance(tensor, Tensor) and not (name == "hx" and tensor is None):
                raise TypeError(f"{name} is {type(tensor).__name__}; expected a tensor")
            if tensor is not None:
                check_ordinary(name, tensor, next(self.parameters()))
        if input.ndim not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D (unbatched) or 3D, got {input.ndim}D instead")
        if hx is not None and hx.ndim != input.ndim:
            raise RuntimeError(f"hx is {tuple(hx.shape)}; for an input of {input.ndim} dimensions it must have as many")
        layout = replace(layout, batched=input.ndim == 3)
        x = input if layout.batched else input.unsqueeze(0 if self.batch_first else 1)
        if hx is None:
            batch = x.shape[0 if self.batch_first else 1]
            hx = x.new_zeros(self.num_layers * self._directions, batch, self.hidden_size)
        elif not layout.batched:
            hx = hx.unsqueeze(1)
        self.check_forward_args(x, hx, None)
        for name, tensor in (("input", x), ("hx", hx)):
            if tensor.dtype != self.weight_ih_l0.dtype or tensor.device != self.weight_ih_l0.device:
                raise RuntimeError(
                    f"{name} is {tensor.dtype} on {tensor.device}, the weights are {self.weight_ih_l0.dtype} on "
                    f"{self.weight_ih_l0.device}; convert one of them with .to(...)"
                )
            if tensor.device.type == "cpu" and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has entries that are NaN or infinite; expected finite numbers")
        x = x.transpose(0, 1) if self.batch_first else x
        if not len(x):
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return x, hx, layout
