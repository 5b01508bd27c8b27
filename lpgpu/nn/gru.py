"""GRU: a drop-in for torch.nn.GRU that is propagated in parallel over the sequence."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lpgpu.comm import as_communicator
from lpgpu.kernels.implicit_gru import FORMULATIONS
from lpgpu.mgrit import MGRIT, Solver, SolveResult
from lpgpu.nn.autograd import PropagateSequence, Propagation, Replicated, Results
from lpgpu.nn.checks import check_ordinary
from lpgpu.nn.piece import Piece
from lpgpu.nn.plain_gru import gru_states
from lpgpu.nn.propagators.gru import GRULayers
from lpgpu.nn.solved import Solved


class GRU(Solved, nn.GRU):
    """A GRU over long sequences, solved by MGRIT over the time steps, forward and backward.

    It takes the place of torch.nn.GRU but by default computes something else, in training and in eval: the *implicit*
    cell h⁺ = (h + d ⊙ n)/(1 + d), d = Δt (1 − z), which stays stable on coarse grids (Moon & Cyr, "Parallel training of
    GRU networks with a multi-grid solver for long sequences", ICLR 2022), and its states inexactly.
    `formulation="classic"` with `solver=Serial()` is torch.nn.GRU to rounding. Arguments, parameters, gate order
    (r, z, n) and initialisation are torch.nn.GRU's, and state_dicts load both ways. With `Serial()` on one process it
    is twice differentiable (`create_graph=True`); an inexact solve refuses it.

    Args:
        formulation: "implicit" or "classic"; the classic cell diverges on coarse grids.
        dt: Δt > 0, the time between two elements of the sequence.
        comm: None, or an mpi4py communicator whose ranks share the sequence: `input` and `output` are this rank's piece
            of it, rank 0's first; pieces may differ in length. All ranks hold the weights and get the same, full
            gradient. Every rank makes the same calls, backward too, and passes the same `hx` and `lengths`. A loss of
            `h_n`, which is the same on all, counts once; a loss of `output` is each rank's own, and they add up.
        solver: MGRIT(...), Parareal(...) or Serial(); may be assigned between calls. Δ-correction is on by default. All
            states are the output and are kept; `store="c_points"` saves their gates.

    Attributes:
        forward_results, adjoint_results: of each layer (and direction) in order, its latest SolveResult, or None.

    Raises:
        ValueError, TypeError: for arguments that make no network, saying what came and what was expected.
    """

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
        formulation: Literal["implicit", "classic"] = "implicit",
        dt: float = 1.0,
        comm: Any = None,
        solver: Solver | None = None,
        device=None,
        dtype=None,
    ) -> None:
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
        communicator.agree(lambda: None, lambda: {"the network": self.extra_repr(), "dtype": self.weight_ih_l0.dtype})
        for weight in self.parameters():
            weight.data = communicator.broadcast(weight.data, 0)
        self.forward_results: list[SolveResult | None] = [None] * (num_layers * self._directions)
        self.adjoint_results: list[SolveResult | None] = [None] * (num_layers * self._directions)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: Tensor, hx: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All states of the last layer, and every layer's last one.

        Args:
            input: [T, B, input_size], [B, T, input_size] with `batch_first`, or [T, input_size] unbatched.
            hx: the states to start from, [layers · directions, B, hidden_size]; None: zero.
            lengths: [B], the number of valid elements of each padded sequence, in any order; None: all of them. Beyond
                its length a sequence's output is zero, and its last state is that at its length. Where ranks share the
                sequence it is the whole one's.

        Returns:
            output [T, B, directions · hidden_size] (as `input` in order and batching), and h_n like `hx`.

        Raises:
            RuntimeError, ValueError: for shapes and dtypes that torch.nn.GRU refuses, tensors that are not dense or
                have no values (meta), lengths that do not fit, and on a CPU for an `input` (padding too) or `hx` that
                is not finite.
            TypeError: for a PackedSequence.
            NotImplementedError: inside a transform of torch.func, such as vmap.
        """
        checked: list[Any] = []
        self._communicator.agree(
            lambda: checked.extend(self._checked(input, hx)), lambda: self._facts(input, hx, lengths)
        )
        x, initial, batched = checked
        piece = Piece.of(self._communicator, x)
        lengths = None if lengths is None else _checked_lengths(lengths, piece.steps, x)
        output, h_n = self._propagate(x, initial, piece, lengths)
        if not batched:
            return output.squeeze(1), h_n.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output, h_n

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, formulation={self.formulation!r}, dt={self.dt}, solver={self.solver}"

    def _propagate(self, x: Tensor, hx: Tensor, piece: Piece, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output [T, B, ...] and h_n, of checked arguments."""
        padded = None if lengths is None else (piece.times(x.device)[:, None] >= lengths)[..., None]
        weights = self._replicated_weights(piece)
        last_states = []
        for layer in range(self.num_layers):
            directions = []
            for reverse in range(self._directions):
                which = layer * self._directions + reverse
                marched = piece.reversed() if reverse else piece
                states = self._solve(x, hx[which], padded, which, weights, marched)
                # in reverse every sequence ends at its first element
                last_states.append(marched.last_state(states, None if reverse else lengths))
                directions.append(states.flip(0) if reverse else states)
            x = torch.cat(directions, -1) if self.bidirectional else directions[0]
            if padded is not None:
                x = x.masked_fill(padded, 0)
            if layer + 1 < self.num_layers:
                x = piece.dropout(x, self.dropout, self.training)
        h_n = torch.stack(last_states)
        return (x, h_n) if piece.is_whole else Results.apply(piece.communicator, piece.anchor(), x, h_n)

    def _replicated_weights(self, piece: Piece) -> dict[str, Tensor]:
        """All weights by name; of shared sequences, with gradients that are summed over ranks."""
        weights = {name: getattr(self, name) for names in self._all_weights for name in names}
        if piece.is_whole:
            return weights
        values = Replicated.apply(piece.communicator, piece.anchor(), *weights.values())
        return dict(zip(weights, values, strict=True))

    def _solve(
        self,
        x: Tensor,
        h_0: Tensor,
        padded: Tensor | None,
        which: int,
        weights: dict[str, Tensor],
        marched: Piece,
    ) -> Tensor:
        """The states h_1 … h_T of one layer in one direction, in the order they are computed."""
        layer, reverse = divmod(which, self._directions)
        suffix = f"l{layer}" + ("_reverse" if reverse else "")
        products = F.linear(x, weights[f"weight_ih_{suffix}"], weights.get(f"bias_ih_{suffix}"))
        if padded is not None:
            # an infinite pre-activation makes z = 1: the state is passed on as it is
            r, z, n = products.chunk(3, -1)
            products = torch.cat([r, z.masked_fill(padded, math.inf), n], -1)
        if reverse:
            products = products.flip(0)
        propagation = Propagation(
            num_steps=marched.steps,
            partition=marched.partition,
            solver=self.solver,
            communicator=marched.communicator,
            forward_done=lambda result: self.forward_results.__setitem__(which, result),
            adjoint_done=lambda result: self.adjoint_results.__setitem__(which, result),
            differentiable=torch.is_grad_enabled(),
            plain=lambda x, h_0, w, b: gru_states(x, h_0, w, b, self.dt, self.formulation),
        )
        w, b = weights[f"weight_hh_{suffix}"], weights.get(f"bias_hh_{suffix}")
        return PropagateSequence.apply(propagation, self._layers, propagation.anchor(), products, h_0, w, b)

    def _facts(self, input: Tensor, hx: Tensor | None, lengths: Any) -> dict[str, object]:
        """What must be the same on every rank at a call."""
        sizes: list[Any] = list(input.shape)
        sizes[1 if self.batch_first and input.ndim == 3 else 0] = "time"
        return {
            "input": f"{input.dtype} {sizes}",
            "hx": None if hx is None else tuple(hx.shape),
            "lengths": lengths.tolist() if isinstance(lengths, Tensor) else lengths,
            "solver": self.solver,
            "training": self.training,
            "whether gradients are enabled": torch.is_grad_enabled(),
        }

    def _layers(self, products: Tensor, w: Tensor, b: Tensor | None) -> GRULayers:
        return GRULayers(products.detach(), w.detach(), None if b is None else b.detach(), self.formulation, self.dt)

    def _checked(self, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor, bool]:
        """Input as [T, B, input_size], states to start from, and whether the input was batched."""
        if isinstance(input, PackedSequence):
            raise TypeError(
                "input is a PackedSequence; pass the padded tensor and its lengths instead: "
                "x, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed); gru(x, lengths=lengths)"
            )
        if not isinstance(input, Tensor):
            raise TypeError(f"input is {type(input).__name__}; expected a tensor")
        if hx is not None and not isinstance(hx, Tensor):
            raise TypeError(f"hx is {type(hx).__name__}; expected a tensor")
        for name, tensor in (("input", input), ("hx", hx)):
            if tensor is not None:
                check_ordinary(name, tensor, next(self.parameters()))
        if input.ndim not in (2, 3):
            raise ValueError(f"input is {tuple(input.shape)}; expected 2 dimensions (unbatched) or 3")
        batched = input.ndim == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if hx is not None and hx.ndim != input.ndim:
            raise RuntimeError(f"hx is {tuple(hx.shape)}; for an input of {input.ndim} dimensions it must have as many")
        if hx is not None and not batched:
            hx = hx.unsqueeze(1)
        batch = x.shape[0 if self.batch_first else 1]
        if hx is None:
            hx = x.new_zeros(self.num_layers * self._directions, batch, self.hidden_size)
        self.check_forward_args(x, hx, None)
        for name, tensor in (("input", x), ("hx", hx)):
            if tensor.dtype != self.weight_ih_l0.dtype or tensor.device != self.weight_ih_l0.device:
                raise ValueError(
                    f"{name} is {tensor.dtype} on {tensor.device}, the weights are {self.weight_ih_l0.dtype} on "
                    f"{self.weight_ih_l0.device}; convert one of them with .to(...)"
                )
            if tensor.device.type == "cpu" and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has entries that are NaN or infinite; expected finite numbers")
        x = x.transpose(0, 1) if self.batch_first else x
        if not len(x):
            raise ValueError(f"input is {tuple(input.shape)}; expected at least one time step")
        return x, hx, batched


def _checked_lengths(lengths: Tensor, steps: int, x: Tensor) -> Tensor:
    """`lengths` [B] on the device of `x` [T, B, ...], where they fit its batch and the sequence's steps."""
    batch = x.shape[1]
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8) or lengths.shape != (
        batch,
    ):
        raise ValueError(f"lengths is {lengths.dtype} {tuple(lengths.shape)}; expected integers, ({batch},)")
    if batch and (int(lengths.min()) < 1 or int(lengths.max()) > steps):
        raise ValueError(f"lengths go from {int(lengths.min())} to {int(lengths.max())}; expected 1 to {steps}")
    return lengths.long()
