"""What the drawings share: colours, letters, and a few shapes."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

INK, GREY, PALE = "#1f2933", "#66727f", "#d5dde5"
BLUE, ORANGE, GREEN, RED = "#2868a8", "#d97706", "#157a5a", "#b3382c"
STYLE = {
    "svg.fonttype": "path",  # letters are outlines: they look the same everywhere
    "svg.hashsalt": "lpgpu",  # equal drawings are equal files
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}
WIDTH = 5.6  # inches: as wide as letters of 11 points stay legible on a telephone


def blank(height: float, xlim: tuple[float, float], ylim: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure without axes."""
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    axes.set(xlim=xlim, ylim=ylim)
    axes.axis("off")
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    return figure, axes


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, bend: float = 0) -> None:
    """An arrow, which a `bend` makes a bow."""
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=color, lw=1.3, connectionstyle=style, shrinkA=0
        )
    )


def bar(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """A filled rectangle, by its lower left corner."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor="white", linewidth=0.5))


def box(axes: Axes, x: float, y: float, text: str, color: str, width: float, height: float = 0.62) -> None:
    """A rounded box with words in it, by its centre."""
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc="white", ec=color, lw=1.6))
    axes.text(x, y, text, ha="center", va="center", linespacing=1.25)
