"""The picture of ranks in a training step: every moment is somebody's, and a step that does not come is refused."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from lpgpu.train import InputError, Run, draw_plots, draw_runs, train
from lpgpu.train.reports.timeline import OUTSIDE, SOLVER, WAITS, rank_timeline, read_timeline, segments, spans
from tests.train.helpers import InterruptAtStep, tiny_run

NAMES = ("train step", "forward solve", "adjoint solve", "cycle", "sweep level 0", "step level 1", "wait")
Range = tuple[str, list["Range"]]  # a name, and the ranges inside
RANGES = st.recursive(
    st.tuples(st.sampled_from(NAMES), st.just([])),
    lambda inner: st.tuples(st.sampled_from(NAMES), st.lists(inner, max_size=3)),
    max_leaves=12,
)


def events_of(ranges: Range) -> list[tuple[float, str | None]]:
    """As they are recorded, an event a second."""

    def walk(of: Range) -> list[str | None]:
        return [of[0], *itertools.chain.from_iterable(map(walk, of[1])), None]

    return [(float(at), name) for at, name in enumerate(walk(ranges))]


@given(RANGES)
def test_every_moment_has_one_kind(ranges: Range) -> None:
    events = events_of(ranges)
    found = segments(events)
    assert found[0][0] == 0.0 and found[-1][1] == events[-1][0]
    for (_, to, kind), (since, _, other) in itertools.pairwise(found):
        assert to == since and kind != other
    assert sum(len(spans(events, name)) for name in NAMES) == len(events) / 2


def test_the_innermost_range_says_what_is_done() -> None:
    solve: Range = ("forward solve", [("cycle", [("sweep level 1", [("wait", [])])])])
    kinds = [kind for *_, kind in segments(events_of(("train step", [solve])))]
    assert kinds == [OUTSIDE, SOLVER, "layers of level 1", WAITS, "layers of level 1", SOLVER, OUTSIDE]


def timeline(ranks: int = 3) -> dict:
    solve: Range = ("forward solve", [("sweep level 0", []), ("wait", []), ("step level 1", [])])
    events = events_of(("train step", [solve, ("adjoint solve", [("sweep level 0", [])])]))
    return {"step": 5, "ranks": [{"layer_rank": r, "data_rank": 0, "events": events} for r in range(ranks)]}


def test_the_picture_has_a_row_for_each_rank_and_its_legend_outside() -> None:
    figure = rank_timeline(timeline(), "digits · serial · seed 3")
    (axis,), suptitle = figure.axes, figure.get_suptitle()
    assert suptitle == "digits · serial · seed 3\nstep 5 on 3 ranks"
    assert [label.get_text() for label in axis.get_yticklabels()] == [f"rank {r}\nwaits 8%" for r in range(3)]
    legend = axis.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    kinds = ["layers of level 0", "layers of level 1", SOLVER, OUTSIDE, WAITS]
    assert shown == [*kinds, "forward solve (thin line)", "adjoint solve (thin line)"]
    assert len({to_hex(handle.get_facecolor()) for handle in legend.get_patches()}) == len(shown)
    figure.canvas.draw()
    assert legend.get_window_extent().x0 >= axis.get_window_extent().x1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of one process, its third step recorded."""
    done = tiny_run(tmp_path_factory.mktemp("runs") / "run", epochs=1, timeline=3)
    train(done)
    return done


def test_a_run_leaves_the_picture_and_plot_draws_it_again(run: Run, tmp_path: Path) -> None:
    recorded = read_timeline(run.folder)
    assert recorded["step"] == 3 and len(recorded["ranks"]) == 1
    kinds = {kind for *_, kind in segments(recorded["ranks"][0]["events"])}
    assert kinds == {"layers of level 0", "layers of level 1", SOLVER, OUTSIDE}
    (run.folder / "timeline.png").unlink()
    assert draw_plots(run.folder)[-1] == run.folder / "timeline.png"
    assert (run.folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "ranks of run in one step" in draw_runs([run.folder], tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_run_that_has_its_picture_goes_on(run: Run) -> None:
    before = (run.folder / "timeline.json").read_bytes()
    train(Run.resume(run.folder, {"epochs": 2}))
    assert (run.folder / "timeline.json").read_bytes() == before


@pytest.mark.usefixtures("no_plots")
def test_a_step_that_does_not_come_is_refused(tmp_path: Path) -> None:
    beyond = tiny_run(tmp_path / "beyond", epochs=2, timeline=9)
    with pytest.raises(InputError, match="timeline is 9, but the steps of this run that are still to come are 1 … 8"):
        train(beyond)
    assert not beyond.folder.exists()
    plain = tiny_run(tmp_path / "plain", epochs=1)
    train(plain)
    with pytest.raises(InputError, match=r"timeline is 2, but .* still to come are 5 … 8"):
        train(Run.resume(plain.folder, {"epochs": 2, "timeline": 2}))


@pytest.mark.usefixtures("no_plots")
def test_step_0_is_none_and_a_resumed_run_may_turn_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = tiny_run(tmp_path / "none", epochs=1, timeline=0)
    train(none)
    broken = tiny_run(tmp_path / "broken", epochs=1, timeline=3, checkpoint_every=1)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(Run.resume(broken.folder, {"timeline": 0}))
    assert not any((run.folder / "timeline.json").exists() for run in (none, broken))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read .* --timeline` writes it"):
        read_timeline(tmp_path)
    for damaged in ("{", json.dumps({"step": 1}), json.dumps({"step": 1, "ranks": [3]})):
        (tmp_path / "timeline.json").write_text(damaged)
        with pytest.raises(InputError, match=r"timeline\.json is damaged"):
            read_timeline(tmp_path)
