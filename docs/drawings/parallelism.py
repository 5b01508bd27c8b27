"""Drawings of work shared among GPUs, and of work shared among launches."""

from canvas import BLUE, GREY, INK, ORANGE, PALE, WIDTH, arrow, bar, plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

OF_GPU = ["#8fb7dc", "#f3c98b", "#9bd3bf", "#d9b3d9"]
LAYERS, PARTS = 8, 4


def kinds() -> Figure:
    """Which part of the work each of four GPUs has, and in which order it can be done."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.2))
    _data(axes[0, 0])
    _pipeline(axes[0, 1])
    _within_a_layer(axes[1, 0])
    _layers(axes[1, 1])
    for each in axes.flat:
        each.set(xlim=(-0.1, 8.1), ylim=(-0.1, 8.1), xticks=(), yticks=())
        each.spines[:].set_visible(False)
    for each in axes[:, 0]:
        each.set_ylabel("layers →", color=GREY)
    colors = [Patch(color=color, label=f"GPU {i + 1}") for i, color in enumerate(OF_GPU)]
    figure.legend(handles=colors, loc="lower center", ncols=4, fontsize=9.5, handlelength=1.2)
    figure.tight_layout(rect=(0, 0.05, 1, 1), w_pad=2, h_pad=1.5)
    return figure


def _data(axes: Axes) -> None:
    axes.set(title="Data", xlabel="examples of the batch")
    for part, color in enumerate(OF_GPU):
        bar(axes, 2 * part, 0, 2, 8, color)
        arrow(axes, (2 * part + 1, 0.5), (2 * part + 1, 7.7))


def _pipeline(axes: Axes) -> None:
    axes.set(title="Pipeline", xlabel="examples of the batch")
    for part, color in enumerate(OF_GPU):
        bar(axes, 0, 2 * part, 8, 2, color)
        for batch in range(PARTS):
            axes.text(2 * batch + 1, 2 * part + 1, str(part + batch + 1), ha="center", va="center")


def _within_a_layer(axes: Axes) -> None:
    axes.set(title="Tensor, sequence", xlabel="units, or the sequence")
    for layer in range(LAYERS):
        for part, color in enumerate(OF_GPU):
            bar(axes, 2 * part, layer, 2, 1, color)
        axes.annotate("", (7.7, layer + 1), (0.3, layer + 1), arrowprops={"arrowstyle": "<->", "color": INK, "lw": 0.9})
    arrow(axes, (4, 0.4), (4, 7.8))


def _layers(axes: Axes) -> None:
    axes.set(title="Layer-parallel", xlabel="examples of the batch")
    for part, color in enumerate(OF_GPU):
        bar(axes, 0, 2 * part, 8, 2, color)
        for x in (2.2, 3.8):
            arrow(axes, (x, 2 * part + 0.2), (x, 2 * part + 1.9))
        arrow(axes, (6.3, 2 * part + 0.1), (6.3, 2 * part + 2.05), ORANGE)
    axes.text(6.6, 4, "coarse", rotation=90, va="center", color=ORANGE, fontweight="bold")


def sweeps() -> Figure:
    """A sweep of six steps in one launch, the weights on chip, or in a launch for each step."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 2.9))
    above.set_title("Resident: one launch a sweep")
    bar(above, 0, 0, 0.5, 1, PALE)
    bar(above, 0.5, 0, 1.2, 1, ORANGE)
    below.set_title("Tiled: one launch a step")
    for step in range(6):
        bar(above, 1.7 + step, 0, 1, 1, BLUE)
        bar(below, 2.7 * step, 0, 0.5, 1, PALE)
        bar(below, 2.7 * step + 0.5, 0, 1.2, 1, ORANGE)
        bar(below, 2.7 * step + 1.7, 0, 1, 1, BLUE)
    for axes in (above, below):
        axes.set(xlim=(0, 16.3), ylim=(-0.05, 1.05), xticks=(), yticks=())
        axes.spines[:].set_visible(False)
    colors = {PALE: "launch", ORANGE: "read weights", BLUE: "a step of all intervals"}
    handles = [Patch(color=color, label=label) for color, label in colors.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=9.5, handlelength=1.2)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    return figure
