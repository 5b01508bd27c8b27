"""Drawings of the method: who computes when, the grids, a cycle."""

from canvas import BLUE, GREY, INK, ORANGE, PALE, WIDTH, arrow, bar, blank, box, plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

Schedule = list[list[tuple[int, int, str]]]
"""Step after step, the runs of layers that are evaluated: (first layer, number of layers, colour)."""


def mgrit_schedule(layers: int, m: int) -> Schedule:
    """Two levels, F-relaxation, a guess from the coarse grid and one cycle; a coarse step takes m layers at once."""
    coarse: Schedule = [[(start, m, ORANGE)] for start in range(0, layers, m)]
    relax: Schedule = [[(start + j, 1, BLUE) for start in range(0, layers, m)] for j in range(m - 1)]
    onto_c_points: Schedule = [[(start + m - 1, 1, BLUE) for start in range(0, layers, m)]]
    return [*coarse, *relax, *onto_c_points, *coarse, *relax]


def layer_parallel() -> Figure:
    """Who computes when, serially and with MGRIT: 64 layers."""
    layers, m = 64, 8
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.3))
    serial: Schedule = [[(k, 1, BLUE)] for k in range(layers)]
    parallel = mgrit_schedule(layers, m)
    _space_time(above, serial, layers, f"Layer after layer: {len(serial)} steps")
    _space_time(below, parallel, layers, f"Layer-parallel: {len(parallel)} steps")
    for name, at in {"guess": 4, "relax": 12, "correct": 20, "relax ": 27.5}.items():
        below.text(at, -3, name, ha="center", va="top", fontsize=9)
    colors = {BLUE: "one layer", ORANGE: "a coarse step over 8 layers"}
    handles = [Patch(color=color, label=label) for color, label in colors.items()]
    below.legend(handles=handles, loc="center left", bbox_to_anchor=(0.5, 0.5))
    figure.tight_layout(h_pad=2)
    return figure


def _space_time(axes: Axes, schedule: Schedule, layers: int, title: str) -> None:
    for t, runs in enumerate(schedule):
        for first, count, color in runs:
            bar(axes, t, first, 1, count, color)
    axes.set(xlim=(0, layers), ylim=(0, layers), xticks=(), yticks=(1, 32, 64), ylabel="layer", title=title)
    axes.text(layers, -3, "time →", ha="right", va="top", color=GREY)


def grids() -> Figure:
    """Three levels of a network of 16 layers, m = 4: F-points, C-points, an interval."""
    figure, axes = blank(3.4, (-3.2, 17.6), (-2.6, 6.9))
    for y, stride, name in ((5, 1, "level 0"), (2.2, 4, "level 1"), (-0.6, 16, "level 2")):
        axes.plot([0, 16], [y, y], color=PALE, lw=2, zorder=0)
        axes.text(-0.9, y, name, ha="right", va="center", color=GREY)
        for k in range(0, 17, stride):
            is_c = stride < 16 and k % (4 * stride) == 0
            color, size = (ORANGE, 9) if is_c else (BLUE, 6.5)
            axes.plot(k, y, "o", ms=size, color=color if is_c or stride == 16 else "white", mec=color)
            if is_c:
                axes.plot([k, k], [y - 0.45, y - 2.4], color=PALE, lw=1.4, ls=":", zorder=0)
    axes.annotate("", (-0.15, 5.75), (4.15, 5.75), arrowprops={"arrowstyle": "<->", "color": INK})
    axes.text(2, 5.95, "an interval, m = 4", ha="center", va="bottom")
    axes.text(8, 5.95, "C-point", ha="center", va="bottom", color=ORANGE, fontweight="bold")
    axes.text(14, 5.95, "F-points", ha="center", va="bottom", color=BLUE, fontweight="bold")
    for x, target, color in ((8, 8, ORANGE), *((14, x, BLUE) for x in (13, 14, 15))):
        axes.plot([x, target], [5.9, 5.4], color=color, lw=0.8)
    for x, words in ((0, "u₀\nthe input"), (16, "u₁₆\nthe output")):
        axes.text(x, -1.1, words, ha="center", va="top", fontsize=9.5, color=GREY)
    return figure


def cycle() -> Figure:
    """One V-cycle on three levels."""
    figure, axes = blank(3.9, (0, 11.2), (-0.2, 8.0))
    middle, names = 5.6, ("all layers", "every m-th", "every m²-th")
    for level, name in enumerate(names[:2]):
        y, away = 7.2 - 3 * level, 4.2 - level
        axes.text(middle, y, name, ha="center", va="center", color=GREY)
        for side, word in ((-1, "restrict"), (1, "correct")):
            x, below = middle + side * away, middle + side * (away - 1 + 0.3 * level)
            box(axes, x, y, "relax", BLUE, 2, 0.9)
            ends = (x - side * 0.1, y - 0.5), (below, y - 2.5)
            arrow(axes, *(ends if side < 0 else ends[::-1]))
            axes.text(x - side * 0.75, y - 1.3, word, ha="left" if side < 0 else "right", va="center")
    box(axes, middle, 1.2, "solve, step by step", ORANGE, 6.2, 0.9)
    axes.text(middle, 0.3, names[2], ha="center", va="center", color=GREY)
    return figure
