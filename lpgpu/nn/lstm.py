"""LSTM: a drop-in for torch.nn.LSTM that is propagated in parallel over the sequence."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lpgpu.comm import as_communicator
from lpgpu.mgrit import MGRIT, Solver
from lpgpu.nn.cells import LSTMCell, Masks
from lpgpu.nn.layout import Layout
from lpgpu.nn.sequence import SequenceModule
from lpgpu.nn.sequence_checks import check_tensor, checked_lengths, checked_resets
from lpgpu.nn.sequence_shard import SequenceShard

State = tuple[Tensor, Tensor]


class LSTM(SequenceModule, nn.LSTM):
    """torch.nn.LSTM, solved by MGRIT over the time steps, forward and backward: equal up to the solver's error.

    Arguments, parameters, gate order (i, f, g, o), projections and initialisation are torch.nn.LSTM's, and state_dicts
    load both ways. With `Serial()` it is torch.nn.LSTM to rounding. On coarse levels the gates are frozen over the m
    steps that one spans, and the memory's decay f^m is exact, which keeps it stable; it is plain PyTorch, without fused
    kernels. Under torch.autocast products are in its dtype, states in fp32, and results in autocast's dtype, as those
    of torch.nn.LSTM.

    Args:
        comm: None, or a communicator whose ranks share the sequence, as for `lpgpu.GRU`.
        solver: MGRIT(...), Parareal(...) or Serial(); may be assigned between calls.

    Attributes:
        forward_results, adjoint_results: of each layer (and direction) in order, its latest SolveResult, or None.

    >>> lstm = LSTM(3, 8, solver=MGRIT(levels=2, coarsening=8, iterations=2))
    >>> output, (h_n, c_n) = lstm(torch.randn(64, 2, 3))
    >>> output.shape
    torch.Size([64, 2, 8])
    """

    _returns = "low"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        comm: Any = None,
        solver: Solver | None = None,
        device=None,
        dtype=None,
    ) -> None:
        self._communicator = as_communicator(comm)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device=device,
            dtype=dtype,
        )
        self.solver = MGRIT() if solver is None else solver
        self._share_weights(self._communicator)
        self._no_results()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, State]:
        """All states h of the last layer, and every layer's last (h, c).

        Args:
            input: [T, B, input_size], [B, T, input_size] with `batch_first`, [T, input_size] unbatched, or packed.
            hx: (h, c) to start from, [layers · directions, B, P or H] each; None: zero.
            lengths: [B], the number of valid elements of each padded sequence; None: all. As for `lpgpu.GRU`.
            resets: boolean, like the first two dimensions of `input`: where a new sequence begins, so that the state
                that arrives there counts as zero.

        Returns:
            output [T, B, directions · (P or H)] (as `input` in order and kind), and (h_n, c_n) like `hx`.

        Raises:
            RuntimeError, ValueError, TypeError: for what torch.nn.LSTM refuses, tensors that are not dense or have no
                values (meta), lengths and resets that do not fit, and on a CPU for an input that is not finite.
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
        h_n, c_n = torch.stack(last_states).split([initial.shape[-1] - self.hidden_size, self.hidden_size], -1)
        if not layout.batched:
            h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
        return precision.returned((output, (h_n.contiguous(), c_n.contiguous())))

    def to_torch(self) -> nn.Module:
        """An independent torch.nn.LSTM of the same weights: on every rank the whole."""
        options = (self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first, self.dropout)
        like = next(self.parameters())
        lstm = nn.LSTM(*options, self.bidirectional, self.proj_size, device="meta", dtype=like.dtype)
        return self._given_to(lstm.to_empty(device=like.device))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, solver={self.solver}"

    def _weights(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for names in self._all_weights for name in names}

    def _cell(self, which: int, weights: dict[str, Tensor], masks: Masks) -> LSTMCell:
        layer, reverse = divmod(which, self._directions)
        suffix = f"_l{layer}" + ("_reverse" if reverse else "")
        own = {
            kind: weights[kind + suffix] for kind in ("weight_hh", "bias_hh", "weight_hr") if kind + suffix in weights
        }
        return LSTMCell((weights["weight_ih" + suffix], weights.get("bias_ih" + suffix)), own, masks)

    def _checked(self, input: Any, hx: Any, layout: Layout) -> tuple[Tensor, Tensor, Layout]:
        """Input as [T, B, input_size], (h, c) to start from side by side, and how the input came."""
        weight = next(self.parameters())
        layout.check(self._communicator.size)
        check_tensor("input", input, weight)
        if input.ndim not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.ndim}D instead")
        batched = input.ndim == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if hx is None:
            batch, count = x.shape[0 if self.batch_first else 1], self.num_layers * self._directions
            sizes = (self.proj_size or self.hidden_size, self.hidden_size)
            hx = tuple(x.new_zeros(count, batch, size) for size in sizes)
        else:
            if not isinstance(hx, tuple | list) or len(hx) != 2:
                raise TypeError(f"hx is {type(hx).__name__}; expected a pair of tensors (h_0, c_0)")
            for name, state in zip(("h_0", "c_0"), hx, strict=True):
                check_tensor(name, state, weight)
                if state.ndim != input.ndim:
                    raise RuntimeError(
                        f"{name} is {tuple(state.shape)}; for an input of {input.ndim} dimensions it must have as many"
                    )
            hx = tuple(state if batched else state.unsqueeze(1) for state in hx)
        self.check_forward_args(x, hx, None)  # pyright: ignore[reportArgumentType]
        x = x.transpose(0, 1) if self.batch_first else x
        if not len(x):
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return x, torch.cat(hx, -1), Layout(self.batch_first, batched, layout.packed, layout.lengths)
