"""A residual network of several ODE stages, as for CIFAR: what changes size between them is walked as it is.

    stem:        u = K ∗ x
    stage s:     u_{k+1} = u_k + Δt f_k(u_k),   f(u) = K² ∗ relu(norm(K¹ ∗ relu(norm(u)))),   k = 0 … n_s − 1
    transition:  u ← K ∗ relu(norm(u)), half as high and wide, of as many channels as the next stage
    head:        scores = W mean over pixels of relu(norm(u)) + b

All convolutions are 3×3 with zero padding. The shape is that of He, Zhang, Ren & Sun, "Deep residual learning for image
recognition", CVPR 2016, section 4.2; f is the pre-activation branch of their "Identity mappings in deep residual
networks", ECCV 2016, which leaves the state itself unchanged, as an ODE needs it; and Δt = Tf/n_s as in Haber &
Ruthotto, "Stable architectures for deep neural networks", Inverse Problems 34 (2018).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lpgpu.comm import as_communicator
from lpgpu.mgrit import Solver
from lpgpu.nn.layer_parallel import LayerParallel

Norm = Literal["batch", "group", "none"]
Stage = Callable[[int, Callable[[], nn.Module]], LayerParallel]
"""(s, what builds a block) → the layers of stage s."""


class ResidualBranch(nn.Module):
    """f(u) = K² ∗ relu(norm(K¹ ∗ relu(norm(u)))) on [batch, channels, height, width]: a block of form "rhs"."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.first = normed_convolution(channels, channels, norm)
        self.second = normed_convolution(channels, channels, norm)

    def forward(self, u: Tensor) -> Tensor:
        """f(u), like `u`."""
        return self.second(self.first(u))


class StagedResNet(nn.Module):
    """Scores [batch, classes] of images [batch, in_channels, height, width]; see the file.

    Attributes:
        stem, head: before and after the stages.
        stages: the `LayerParallel`s, one for each of `widths`.
        transitions: between them, one fewer.
    """

    def __init__(self, in_channels: int, classes: int, widths: Sequence[int], stage: Stage, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            stage(s, lambda width=width: ResidualBranch(width, norm)) for s, width in enumerate(widths)
        )
        self.transitions = nn.ModuleList(
            normed_convolution(width, after, norm, stride=2) for width, after in pairwise(widths)
        )
        self.head = nn.Sequential(
            normalisation(widths[-1], norm),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The scores of `x`."""
        u = self.stages[0](self.stem(x))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            u = stage(transition(u))
        return self.head(u)


def resnet_ode(
    classes: int = 10,
    *,
    in_channels: int = 3,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int | Sequence[int] = 18,
    Tf: float = 1.0,
    norm: Norm = "batch",
    comm: Any = None,
    solver: Solver | None = None,
    buffer: tuple[int, int] = (0, 0),
) -> StagedResNet:
    """A CIFAR-style ResNet of several ODE stages, each a `LayerParallel`: He et al. 2016, as of `lpgpu.nn.resnet`.

    Images [batch, in_channels, height, width] of any size become scores [batch, classes]; stage s has states
    [batch, widths[s], ⌈height/2^s⌉, ⌈width/2^s⌉].

    Args:
        classes: the scores that there are.
        in_channels: of the images.
        widths: the channels of each stage; one stage for each.
        blocks: the layers of every stage, or of each in turn, over all ranks; one has two convolutions.
        Tf: the final time of each stage: Δt = Tf / blocks. The smaller Δt is, the closer are the coarse grids.
        norm: "batch" (its running statistics are updated once a forward), "group" (of at most 8 groups) or "none".
        comm: None, or a communicator whose ranks share the layers of every stage. Stem, transitions and head are on
            every rank: build from the same seed.
        solver: of every stage; may be assigned later: `net.stages[0].solver = …`.
        buffer: (a, b): the first a and last b layers of every stage are walked one by one.

    Raises:
        TypeError, ValueError: for arguments that make no network.

    >>> net = resnet_ode(10, widths=(4, 8), blocks=(8, 4), solver=MGRIT(levels=2, coarsening=4))
    >>> net(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> [stage.num_steps for stage in net.stages]
    [8, 4]
    """
    _check_counts(classes=classes, in_channels=in_channels)
    widths = _several("widths", widths)
    of_stages = (
        [blocks] * len(widths)
        if isinstance(blocks, int) and not isinstance(blocks, bool)
        else _several("blocks", blocks)
    )
    if not widths or len(of_stages) != len(widths):
        raise ValueError(f"blocks is {blocks!r}, widths {widths!r}; expected one number, or one for each width")
    if norm not in get_args(Norm):
        raise ValueError(f"norm is {norm!r}; expected one of {', '.join(map(repr, get_args(Norm)))}")
    communicator = as_communicator(comm)
    if min(of_stages) < communicator.size:
        raise ValueError(f"blocks is {blocks!r} for {communicator.size} ranks; expected one each at least, a stage")

    def stage(s: int, block: Callable[[], nn.Module]) -> LayerParallel:
        first, stop = (of_stages[s] * rank // communicator.size for rank in (communicator.rank, communicator.rank + 1))
        return LayerParallel(comm, block, stop - first, Tf, solver=solver, buffer=buffer)

    return StagedResNet(in_channels, classes, widths, stage, norm)


def _several(name: str, values: Any) -> Sequence[int]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{name} is {values!r}; expected integers, one for each stage, such as (16, 32, 64)")
    for value in values:
        _check_counts(**{name: value})
    return values


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is or holds {value!r}; expected an integer ≥ 1")
        if value < 1:
            raise ValueError(f"{name} is or holds {value}; expected at least 1")


def normed_convolution(channels: int, after: int, norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """K ∗ relu(norm(u)) with a 3×3 kernel; only without a norm has it a bias."""
    convolution = nn.Conv2d(channels, after, 3, stride=stride, padding=1, bias=norm == "none")
    return nn.Sequential(normalisation(channels, norm), nn.ReLU(), convolution)


def normalisation(channels: int, norm: Norm) -> nn.Module:
    """The norm of that name, of [batch, channels, height, width]."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    groups = next(groups for groups in range(min(8, channels), 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels)
