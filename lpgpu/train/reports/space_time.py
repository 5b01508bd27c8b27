"""The space-time picture of a network's solves: how far each layer is from exact propagation, cycle by cycle."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpgpu.train.reports.figures import new_figure
from lpgpu.train.setup.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERIFICATION = "verification.json"


def read_verification(folder: Path) -> dict[str, Any]:
    """What `lpgpu verify` has measured on the run in `folder`. Raises `InputError` where it has not, or is damaged."""
    path = folder / VERIFICATION
    try:
        verification = json.loads(path.read_text(encoding="utf-8"))
        return {"cycles": list(verification["cycles"]), **verification}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); `lpgpu verify {folder}` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); `lpgpu verify {folder}` writes it anew") from error


def space_time(verification: dict[str, Any], title: str) -> "Figure":
    """A heat map for each part that is solved: layers to the right, cycles downwards, the states' relative error.

    White is exact, to the last bit; cyan is not finite. F- and C-points show as stripes, and the front that finite
    exactness moves on by an interval or two in each cycle as an edge.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    parts = list(verification["cycles"][0]["layers"])
    figure, axes = new_figure(1, len(parts), title)
    for axis, part in zip(axes, parts, strict=True):
        errors = [cycle["layers"][part] for cycle in verification["cycles"]]
        there = [error for row in errors for error in row if error] or [1.0]
        most = max(max(there), min(there) * 10)
        norm = LogNorm(min(there), most)
        colours = colormaps["magma_r"].with_extremes(bad="white", over="cyan")
        shown = [[math.nan if e == 0 else 10 * most if e is None else e for e in row] for row in errors]
        layers = len(errors[0])
        image = axis.imshow(
            shown, aspect="auto", cmap=colours, norm=norm, interpolation="nearest",
            extent=(0.5, layers + 0.5, len(errors) - 0.5, -0.5),
        )  # fmt: skip
        axis.grid(visible=False)
        axis.set(xlabel=f"layer or time step of {part or 'the network'}", ylabel="cycles")
        axis.set_yticks(range(len(errors)), [str(cycle["iterations"]) for cycle in verification["cycles"]])
        figure.colorbar(image, ax=axis, label="relative error of the state")
    return figure
