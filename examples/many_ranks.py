"""One program for one process, for mpiexec and for torchrun: layers and data are shared by whatever ranks there are.

With four ranks, two networks stand side by side; each has half of its layers on one rank and half on another, and gets
half of every batch. You see which rank has what, and a loss that does not depend on the number of ranks.

    python examples/many_ranks.py
    mpiexec -n 4 python examples/many_ranks.py
    torchrun --nproc-per-node 4 examples/many_ranks.py
"""

import torch
from torch import nn

from lpgpu import MGRIT, LayerParallel, ProcessGrid, average_gradients
from lpgpu.comm import as_communicator
from lpgpu.comm.launcher import world_of_launcher
from lpgpu.nn import DenseBlock


def main(layers=64, steps=30):
    # mpi4py's MPI.COMM_WORLD, or torch.distributed's group.WORLD, or None for one process. Write it yourself where you
    # know how your program is started. The rest of the program is the same for all of them.
    world = world_of_launcher()
    size = as_communicator(world).size
    # layer_ranks ranks share one network; there are size / layer_ranks such networks, each with its part of a batch.
    grid = ProcessGrid(world, layer_ranks=2 if size % 2 == 0 else size)

    torch.manual_seed(0)  # the same on every rank: the modules outside of LayerParallel are on all of them
    solver = MGRIT(levels=2, coarsening=8, iterations=2)
    deep = LayerParallel(grid.layer_comm, lambda: DenseBlock(8), layers // grid.layer_ranks, Tf=2.0, solver=solver)
    net = nn.Sequential(nn.Linear(2, 8), deep, nn.Linear(8, 2)).to(grid.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)

    first = grid.layer_rank * deep.local_num_steps
    print(
        f"network {grid.data_rank} of {grid.data_ranks}: layers {first} to {first + deep.local_num_steps - 1}"
        f" of {layers} are here",
        flush=True,
    )
    for step in range(steps + 1):
        x = torch.randn(64, 2)  # the same batch everywhere; each network takes its part of it
        y = (x.norm(dim=1) > 1.2).long()
        mine = slice(grid.data_rank, None, grid.data_ranks)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x[mine].to(grid.device)), y[mine].to(grid.device))
        loss.backward()  # ranks of one network exchange states and adjoints here
        average_gradients(net, grid.data_comm)  # and networks their gradients here
        optimizer.step()
        mean = grid.data_communicator.sum(loss.detach()) / grid.data_ranks  # every rank must call it
        if step % 10 == 0 and grid.is_root:
            print(f"step {step}: loss {mean.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
