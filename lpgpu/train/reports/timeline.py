"""The space-time picture of ranks: who computes what, and who waits, during one training step."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpgpu.train.reports.figures import new_figure, shades
from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMELINE = "timeline.json"
WAITS, SOLVER, OUTSIDE = "waits for another rank", "rest of a solve", "outside of the solves"
PHASES = ("forward solve", "adjoint solve")

Segment = tuple[float, float, str]
"""From, to, in seconds, and what is done."""


def read_timeline(folder: Path) -> dict[str, Any]:
    """What `lpgpu train --timeline` has recorded in `folder`. Raises `InputError` where it has not, or is damaged."""
    path = folder / TIMELINE
    try:
        timeline = json.loads(path.read_text(encoding="utf-8"))
        ranks = [{**rank, "events": [(at, name) for at, name in rank["events"]]} for rank in timeline["ranks"]]
        return {"step": int(timeline["step"]), "ranks": ranks}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); `lpgpu train … --timeline` writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); `lpgpu train … --timeline` writes it") from error


def segments(events: Sequence[tuple[float, str | None]]) -> list[Segment]:
    """What a rank does, moment by moment: the kind of its innermost range, equal neighbours being one.

    >>> segments([(0.0, "forward"), (1.0, "forward solve"), (2.0, "wait"), (4.0, None), (4.5, None), (5.0, None)])[1:3]
    [(1.0, 2.0, 'rest of a solve'), (2.0, 4.0, 'waits for another rank')]
    """
    found: list[Segment] = []
    names: list[str] = []
    before = 0.0
    for at, name in events:
        if names and at > before:
            kind = _kind(names)
            if found and found[-1][1:] == (before, kind):
                found[-1] = (found[-1][0], at, kind)
            else:
                found.append((before, at, kind))
        before = at
        if name is None:
            names.pop()
        else:
            names.append(name)
    return found


def spans(events: Iterable[tuple[float, str | None]], name: str) -> list[tuple[float, float]]:
    """When the ranges called `name` began and ended.

    >>> spans([(0.0, "cycle"), (1.0, "wait"), (2.0, None), (4.0, None)], "cycle")
    [(0.0, 4.0)]
    """
    found, open_ranges = [], []
    for at, began in events:
        if began is not None:
            open_ranges.append((at, began))
            continue
        since, ended = open_ranges.pop()
        if ended == name:
            found.append((since, at))
    return found


def rank_timeline(timeline: dict[str, Any], title: str) -> "Figure":
    """A row for each rank, time to the right: the colour says what it does at each moment.

    The thin line above a row says which solve is under way on that rank; the number beside it, how much of its step it
    has waited.
    """
    from matplotlib.patches import Patch

    ranks = timeline["ranks"]
    figure, (axis,) = new_figure(1, title=f"{title}\nstep {timeline['step']} on {counted(len(ranks), 'rank')}")
    figure.set_size_inches(11, 1.6 + 0.75 * len(ranks))
    done = [segments(rank["events"]) for rank in ranks]
    colours = _colours({kind for of_rank in done for _, _, kind in of_rank})
    names = []
    for row, (rank, of_rank) in enumerate(zip(ranks, done, strict=True)):
        for kind, colour in colours.items():
            bars = [(1e3 * since, 1e3 * (to - since)) for since, to, each in of_rank if each == kind]
            axis.broken_barh(bars, (row - 0.32, 0.64), facecolors=[colour], linewidth=0)
        for phase, colour in zip(PHASES, ("black", "tab:red"), strict=True):
            lines = [(1e3 * since, 1e3 * (to - since)) for since, to in spans(rank["events"], phase)]
            axis.broken_barh(lines, (row - 0.42, 0.06), facecolors=[colour], linewidth=0)
        total = sum(to - since for since, to, _ in of_rank)
        waited = sum(to - since for since, to, kind in of_rank if kind == WAITS)
        names.append(f"{_name(rank, ranks, row)}\nwaits {waited / total:.0%}" if total else _name(rank, ranks, row))
    axis.set_yticks(range(len(ranks)), names)
    axis.set_ylim(len(ranks) - 0.5, -0.5)
    axis.grid(visible=False)
    axis.set(xlabel="milliseconds since the step began")
    handles = [Patch(color=colour, label=kind) for kind, colour in colours.items()]
    handles += [Patch(color=c, label=f"{p} (thin line)") for p, c in zip(PHASES, ("black", "tab:red"), strict=True)]
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")
    return figure


def _kind(names: Sequence[str]) -> str:
    """What a rank does inside these ranges, the innermost one last."""
    innermost = names[-1]
    if innermost == "wait":
        return WAITS
    if innermost.startswith(("sweep level", "step level")):
        return f"layers of level {innermost.split()[-1]}"
    return SOLVER if any(name in PHASES for name in names) else OUTSIDE


def _colours(kinds: set[str]) -> dict[str, Any]:
    """Layers by level, dark to bright; the others as they stand out less."""
    levels = sorted(kinds - {WAITS, SOLVER, OUTSIDE})
    others = {SOLVER: "#c8b8dc", OUTSIDE: "#f2c48d", WAITS: "#d9d9d9"}
    return {**dict(zip(levels, shades(len(levels)), strict=True)), **{k: c for k, c in others.items() if k in kinds}}


def _name(rank: dict[str, Any], ranks: Sequence[dict[str, Any]], row: int) -> str:
    if any(each["data_rank"] for each in ranks):
        return f"rank {row}: network {rank['data_rank']}, part {rank['layer_rank']}"
    return f"rank {row}"
