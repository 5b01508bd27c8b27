"""A training loop that measures how exact its gradients are, and looks for a better solver when they are not.

You see what `verify` measures every 20 steps: the error of the gradient, and the longest chain of dependent steps.
Where the error is more than 1 %, `tune` chooses another solver. It grows while the weights are trained.

    python examples/tune_and_verify.py
"""

import torch
from torch import nn

from lpgpu import MGRIT, LayerParallel, tune, verify
from lpgpu.nn import DenseBlock


def batches(count):
    """Points x [128, 2] of the plane and, as labels, which of three rings around the origin they lie in."""
    for _ in range(count):
        x = 2 * torch.rand(128, 2) - 1
        yield x, (3 * x.norm(dim=1)).long().clamp(max=2)


def main(steps=120, every=20, allowed=1e-2, tries=20, layers=128):
    torch.manual_seed(0)
    solver = MGRIT(levels=2, coarsening=16, iterations=1, adjoint_iterations=0)
    deep = LayerParallel(None, lambda: DenseBlock(16), layers, Tf=4.0, solver=solver)
    net = nn.Sequential(nn.Linear(2, 16), deep, nn.Linear(16, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)

    for step, (x, y) in enumerate(batches(steps + 1)):

        def gradient(x=x, y=y):
            """One forward and one backward pass: what verify and tune run with different solvers."""
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        if step % every == 0:
            found = verify(net, gradient)  # leaves weights and gradients as they were
            print(f"step {step}: gradient error {found.gradient:.0e}, sequential depth {found.depth}", end="")
            print(f" instead of {found.exact_depth}")
            if found.gradient > allowed:
                # by="depth": fewest dependent steps, what counts on many GPUs; by="time": fastest on this machine
                # a third of what is allowed, because the error grows with the weights
                deep.solver = tune(
                    net, gradient, gradient_error=allowed / 3, by="depth", max_tries=tries, progress=False
                )
                s, after = deep.solver, verify(net, gradient)
                print(f"  tuned: {type(s).__name__}", end="")
                if isinstance(s, MGRIT):  # tune may also find that exact propagation, Serial(), is best
                    print(f", coarsening {s.coarsening}, {s.iterations}/{s.adjoint_iterations} cycles", end="")
                print(f": gradient error {after.gradient:.0e}, sequential depth {after.depth}")

        optimizer.zero_grad()
        loss = gradient()
        optimizer.step()
    print(f"loss after {steps} steps: {loss.item():.3f} (always guessing gives about 1.1)")


if __name__ == "__main__":
    main()
