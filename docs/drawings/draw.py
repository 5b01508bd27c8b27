"""The drawings of the documentation: python docs/drawings/draw.py [FOLDER]

Each is an SVG on white, so that it is legible on a dark page too.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import coarse_step
import method
import parallelism
from canvas import STYLE, plt
from matplotlib.figure import Figure

DRAWINGS: dict[str, Callable[[], Figure]] = {
    "layer-parallel": method.layer_parallel,
    "grids": method.grids,
    "cycle": method.cycle,
    "correction": coarse_step.correction,
    "coarse-operators": coarse_step.coarse_operators,
    "parallelism": parallelism.kinds,
    "sweeps": parallelism.sweeps,
}


def draw_all(folder: Path) -> None:
    """Write every drawing into a folder."""
    with plt.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            figure = draw()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
