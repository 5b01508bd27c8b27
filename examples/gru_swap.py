"""A torch.nn.GRU is exchanged for lpgpu.GRU, trained on sequences of different lengths, and exchanged back.

The task: estimate a value between −1 and 1 from noisy measurements. You see that both GRUs compute the same, that the
loss falls while all time steps are solved at once, and that torch.nn.GRU has the same loss with the trained weights.

    python examples/gru_swap.py
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import lpgpu


def sequences(count, longest):
    """Noisy measurements, padded to [longest, count, 1], how many there are [count], the true values [count, 1]."""
    lengths, truth = torch.randint(longest // 4, longest + 1, (count,)), 2 * torch.rand(count) - 1
    x = truth + 0.5 * torch.randn(longest, count)
    x = x * (torch.arange(longest)[:, None] < lengths)  # padding has no effect, but must be finite
    return x[:, :, None], lengths, truth[:, None]


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def main(steps=80, longest=256):
    torch.manual_seed(0)
    theirs = nn.GRU(1, 16)
    ours = lpgpu.GRU(1, 16, solver=lpgpu.MGRIT(levels=2, coarsening=8, iterations=2))
    ours.load_state_dict(theirs.state_dict())  # same names, same shapes

    x, lengths, truth = sequences(32, longest)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    with torch.no_grad():
        _, h_theirs = theirs(packed)
        _, h_packed = ours(packed)  # a PackedSequence works as with torch.nn.GRU,
        _, h_lengths = ours(x, lengths=lengths)  # but padded sequences with their lengths need no packing
    print(f"torch.nn.GRU and lpgpu.GRU differ by {relative_error(h_packed, h_theirs):.0e}")
    print(f"packed and padded sequences differ by {relative_error(h_lengths, h_packed):.0e}")
    print(f"sequential depth {ours.forward_results[0].sequential_depth} instead of {longest}")

    head = nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*ours.parameters(), *head.parameters()], lr=1e-2)
    for step in range(steps + 1):
        x, lengths, truth = sequences(32, longest)
        _, h_n = ours(x, lengths=lengths)  # h_n [1, 32, 16]: the state at the end of each sequence
        loss = nn.functional.mse_loss(head(h_n[0]), truth)
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    theirs = ours.to_torch()  # or: theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        _, h_n = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
        print(f"{type(theirs).__module__}.{type(theirs).__name__} with the trained weights: ", end="")
        print(f"loss {nn.functional.mse_loss(head(h_n[0]), truth).item():.3f}")


if __name__ == "__main__":
    main()
