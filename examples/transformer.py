"""The blocks of an existing transformer become parallel, are trained, and become plain PyTorch again.

The task: find the second largest of eight numbers. You see which blocks were replaced, that the model computes
the same as before up to the solver's error, that it learns, and that its state_dict has the old names in the end.

    python examples/transformer.py
"""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpgpu import MGRIT, parallelize, unparallelize


class Model(nn.Module):
    """Any model of yours: it knows nothing of lpgpu."""

    def __init__(self, blocks=26, width=16):
        super().__init__()
        self.embedding = nn.Embedding(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        with torch.no_grad():
            for block in self.encoder.layers:  # as in GPT-2: the deeper the model, the less each block changes
                block.self_attn.out_proj.weight /= (2 * blocks) ** 0.5
                block.linear2.weight /= (2 * blocks) ** 0.5
        self.head = nn.Linear(width, 8)

    def forward(self, tokens):
        """Tokens [batch, 8] → scores [batch, 8]."""
        return self.head(self.encoder(self.embedding(tokens) + self.position).mean(dim=1))


def target(tokens):
    """The second largest number of each row, [batch]."""
    return tokens.sort(dim=1).values[:, -2]


@sdpa_kernel(SDPBackend.MATH)  # the solver runs blocks under torch.vmap, which PyTorch's CPU flash attention lacks
def main(steps=60):
    torch.manual_seed(0)
    model = Model()
    names = list(model.state_dict())
    tokens = torch.randint(8, (32, 8))
    with torch.no_grad():
        before = model(tokens)

    solver = MGRIT(levels=2, coarsening=8, iterations=1, relaxation="F", adjoint_iterations=0)
    # The first and the last block stay as they are: in trained models they often do something else than those between.
    (part,) = parallelize(model, "encoder.layers", solver=solver, buffer=(1, 1))
    with torch.no_grad():
        error = (model(tokens) - before).norm() / before.norm()
    print(f"{part.num_steps} of 26 blocks in parallel, sequential depth {part.forward_result.sequential_depth}")
    print(f"the parallel model differs from the plain one by {error:.0e}")

    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # made after parallelize: the parameters are new
    for step in range(steps + 1):
        tokens = torch.randint(8, (32, 8))
        loss = nn.functional.cross_entropy(model(tokens), target(tokens))
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.2f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        parallel = model(tokens)
        unparallelize(model, "encoder.layers")
        error = (model(tokens) - parallel).norm() / parallel.norm()
    print(f"after training, unparallelized: differs by {error:.0e}")
    print(f"state_dict has the same names as before: {list(model.state_dict()) == names}")


if __name__ == "__main__":
    main()
