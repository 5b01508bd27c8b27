"""A recurrent cell of your own is solved over all time steps at once, forward and backward.

The cell is an exponential moving average with learned, input-dependent gates. The task: remember the last number that
was marked. You see the error of the parallel solve with and without the cell's own coarse step, then the loss.

    python examples/own_cell.py
"""

import torch
from torch import nn

from lpgpu import MGRIT, Recurrent, verify


class GatedAverage(nn.Module):
    """h ← z ⊙ h + (1 − z) ⊙ n with z = σ(W x), n = tanh(V x + U h)."""

    def __init__(self, inputs, width):
        super().__init__()
        self.width = width
        self.gate, self.new = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.recurrent = nn.Linear(width, width, bias=False)
        nn.init.constant_(self.gate.bias, 2.0)  # z ≈ 0.9: begin with a memory of about ten steps

    def initial_state(self, x):
        """x [batch, inputs] is the first element of the sequence; the result is h before it."""
        return x.new_zeros(len(x), self.width)

    def forward(self, x, h):
        """One time step: x [batch, inputs], h [batch, width] → the next h."""
        z = torch.sigmoid(self.gate(x))
        return z * h + (1 - z) * torch.tanh(self.new(x) + self.recurrent(h))


class WithCoarseStep(GatedAverage):
    """The same cell, with a formula for m steps at once, which the solver uses on its coarse grid."""

    def coarse(self, x, h, m):
        """m steps with the gate and the new value of the first one: the decay is zᵐ. Exact if they do not change."""
        z = torch.sigmoid(self.gate(x))
        return z**m * h + (1 - z**m) * torch.tanh(self.new(x) + self.recurrent(h))


def sequences(count, length):
    """x [length, count, 2]: a number, and a mark 0 or 1; the last marked number [count, 1]."""
    numbers, marks = torch.rand(length, count) - 0.5, torch.rand(length, count) < 0.05
    marks[0] = True
    last = (marks * torch.arange(length)[:, None]).argmax(dim=0)
    return torch.stack([numbers, marks], dim=2), numbers.gather(0, last[None]).T


def main(steps=150, length=128):
    solver = MGRIT(levels=2, coarsening=8, iterations=2)
    for kind in (GatedAverage, WithCoarseStep):
        torch.manual_seed(0)
        rnn, head = Recurrent(kind(2, 16), solver=solver), nn.Linear(16, 1)
        x, y = sequences(32, length)
        found = verify(rnn, lambda rnn=rnn, head=head, x=x, y=y: nn.functional.mse_loss(head(rnn(x)[1]), y).backward())
        print(f"{kind.__name__}: states off by {found.states:.0e}, gradient by {found.gradient:.0e}")

    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=1e-2)
    for step in range(steps + 1):
        x, y = sequences(64, length)
        _, h_n = rnn(x)  # all states [length, 64, 16], the last one [64, 16]
        loss = nn.functional.mse_loss(head(h_n), y)
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.4f} (always guessing 0 gives {1 / 12:.4f})")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
