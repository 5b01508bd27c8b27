"""A residual network of 64 layers learns handwritten digits; all its layers are computed at once.

You see the test accuracy after each epoch, then how far the parallel solve is from walking through the layers one after
another: the same digits are recognised, and the longest chain of dependent steps is shorter.

    python examples/image_classifier.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock


def load():
    """Training and test images [n, 1, 8, 8] with values in 0 … 1, and their labels [n]."""
    pixels, digits = load_digits(return_X_y=True)  # 1797 images that come with scikit-learn
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(digits)
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def network():
    """Stem → 64 layers u + Δt f(u), where f is a ConvBlock → head. Only the layers in the middle are parallel."""
    solver = MGRIT(
        levels=2,  # the network itself, and one coarse network of every 8th layer
        coarsening=8,
        iterations=1,  # cycles of the forward solve: more cycles, smaller error
        adjoint_iterations=1,  # cycles of the backward solve
    )
    layers = LayerParallel(None, lambda: ConvBlock(16), 64, Tf=4.0, solver=solver)  # None: one process; Δt = Tf / 64
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))  # [n, 1, 8, 8] → [n, 16, 4, 4]
    return nn.Sequential(stem, layers, nn.Flatten(), nn.Linear(16 * 16, 10))


@torch.no_grad()
def accuracy(net, images, labels):
    """The share of images that are recognised."""
    return (net(images).argmax(dim=1) == labels).float().mean().item()


def main(epochs=4):
    torch.manual_seed(0)
    train_images, train_labels, test_images, test_labels = load()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(train_images)).split(50):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(train_images[batch]), train_labels[batch])
            loss.backward()  # the backward pass is solved by MGRIT, too
            optimizer.step()
        print(f"epoch {epoch}: test accuracy {accuracy(net, test_images, test_labels):.1%}")

    layers = net[1]
    with torch.no_grad():
        parallel = net(test_images)
        depth = layers.forward_result.sequential_depth
        layers.solver = Serial()  # exact: layer after layer
        exact = net(test_images)
    error = (parallel - exact).norm() / exact.norm()
    print(f"error of the scores {error:.0e}, sequential depth {depth} instead of {layers.num_steps}")
    print(f"test accuracy, layer after layer: {accuracy(net, test_images, test_labels):.1%}")


if __name__ == "__main__":
    main()
