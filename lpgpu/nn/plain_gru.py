"""The GRU of both formulations in plain PyTorch, step after step: an oracle, differentiable as often as wanted."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainGRU(nn.Module):
    """What `lpgpu.GRU` of either formulation computes exactly, as a loop over time: for inspection, export, deployment.

    Parameters have the names and shapes of torch.nn.GRU's. torch.export unrolls the loop, for the example's number of
    steps.

    >>> import torch
    >>> from lpgpu import GRU, Serial
    >>> gru = GRU(3, 4, num_layers=2, solver=Serial())
    >>> x = torch.randn(10, 5, 3)
    >>> bool(torch.allclose(gru.to_torch()(x)[0], gru(x)[0], atol=1e-6))
    True
    """

    def __init__(self, gru: nn.GRU, weights: dict[str, Tensor], formulation: str, dt: float) -> None:
        super().__init__()
        self.num_layers = gru.num_layers
        self.batch_first = gru.batch_first
        self.dropout = gru.dropout
        self.bidirectional = gru.bidirectional
        self.hidden_size = gru.hidden_size
        self.formulation = formulation
        self.dt = dt
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
        self.train(gru.training)

    def forward(self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All states of the last layer and every layer's last one; arguments and results as `lpgpu.GRU.forward`'s."""
        is_batch = input.ndim == 3
        x = input if is_batch else input.unsqueeze(1)
        if is_batch and self.batch_first:
            x = x.transpose(0, 1)
        if hx is None:
            hx = x.new_zeros((2 if self.bidirectional else 1) * self.num_layers, x.shape[1], self.hidden_size)
        elif not is_batch:
            hx = hx.unsqueeze(1)
        padded = None if lengths is None else (torch.arange(len(x), device=x.device)[:, None] >= lengths)[..., None]
        last_states = []
        for layer in range(self.num_layers):
            x, last = self._layer(x, layer, hx, padded)
            last_states += last
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        h_n = torch.stack(last_states)
        if not is_batch:
            return x.squeeze(1), h_n.squeeze(1)
        return x.transpose(0, 1) if self.batch_first else x, h_n

    def _layer(self, x: Tensor, layer: int, hx: Tensor, padded: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Both directions of one layer, side by side, and the last state of each."""
        outputs, last = [], []
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: 2 if self.bidirectional else 1]:
            products = F.linear(x, getattr(self, f"weight_ih_{suffix}"), getattr(self, f"bias_ih_{suffix}", None))
            if padded is not None:
                products = past_the_end(products, padded)
            if suffix.endswith("reverse"):
                products = products.flip(0)
            w, b = getattr(self, f"weight_hh_{suffix}"), getattr(self, f"bias_hh_{suffix}", None)
            h_0 = hx[(2 * layer if self.bidirectional else layer) + len(last)]
            h = gru_states(products, h_0, w, b, self.dt, self.formulation)
            last.append(h[-1])  # of a padded sequence too: past its end a state is passed on
            outputs.append(h.flip(0) if suffix.endswith("reverse") else h)
        x = torch.cat(outputs, -1)
        return x if padded is None else x.masked_fill(padded, 0), last


def past_the_end(products: Tensor, padded: Tensor) -> Tensor:
    """The inputs' products [T, B, 3H], where `padded` [T, B, 1] such that z = 1: the state is passed on as it is."""
    r, z, n = products.chunk(3, -1)
    return torch.cat([r, z.masked_fill(padded, math.inf), n], -1)


def gru_states(
    x: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str, resets: Tensor | None = None
) -> Tensor:
    """h_1 … h_T [T, B, H] from h_0 = `h` [B, H] and the inputs' products `x` [T, B, 3H]; W [3H, H], b [3H] or None.

    Where `resets` [T, B, 1] is true, a step starts from zero.
    """
    states = []
    for k, x_BG in enumerate(x):
        arriving = h if resets is None else h.masked_fill(resets[k], 0)
        h = gru_cell(x_BG, arriving, w, b, dt, formulation)
        states.append(h)
    return torch.stack(states)


def gru_cell(x_BG: Tensor, h: Tensor, w: Tensor, b: Tensor | None, dt: float, formulation: str) -> Tensor:
    """h⁺ = (h + d ⊙ n)/(1 + d) (implicit) or h + d ⊙ (n − h) (classic), d = Δt (1 − z)."""
    x_r, x_z, x_n = x_BG.chunk(3, -1)
    y_r, y_z, q = F.linear(h, w, b).chunk(3, -1)
    r, z = torch.sigmoid(x_r + y_r), torch.sigmoid(x_z + y_z)
    n = torch.tanh(x_n + r * q)
    d = dt * (1 - z)
    if formulation == "implicit":
        return (h + d * n) / (1 + d)
    return h + d * (n - h)
