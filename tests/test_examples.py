"""The programs of examples/ run, at small sizes, what they show is true, and examples/README.md shows the same."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import launcher

FOLDER = Path(__file__).resolve().parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")

SMALL = {
    "gru_swap": {"steps": 20, "longest": 64},
    "image_classifier": {"epochs": 1},
    "kernel_microbenchmark": {"intervals": (1, 4), "repeats": 3},
    "many_ranks": {},
    "own_cell": {"steps": 100, "length": 64},
    "profile_a_step": {"layers": 32, "steps": 1},
    "transformer": {"steps": 20},
    "tune_and_verify": {"steps": 20, "allowed": 1e-3, "tries": 8, "layers": 32},
}


def numbers(text: str, pattern: str) -> list[float]:
    """The numbers that `pattern`'s group finds, in order."""
    return [float(found) for found in re.findall(pattern, text)]


def gru_swap(text: str) -> bool:
    exchange, packing = numbers(text, r"differ by (\S+)")
    *_, parallel, exact = losses = numbers(text, r"loss ([\d.]+)")
    return exchange < 1e-3 and packing < 1e-5 and losses[1] < losses[0] / 2 and exact < 2 * parallel


def image_classifier(text: str) -> bool:
    accuracy, exact = numbers(text, r"([\d.]+)%")
    (error,) = numbers(text, r"scores (\S+),")
    return accuracy > 50 and abs(accuracy - exact) < 5 and 0 < error < 0.1


def own_cell(text: str) -> bool:
    (without, with_coarse), (first, *_, last) = numbers(text, r"states off by (\S+),"), numbers(text, r"loss (\S+) \(")
    return with_coarse < without / 10 and last < first


def transformer(text: str) -> bool:
    before, after = numbers(text, r"by (\S+)\n")
    first, last = numbers(text, r"loss ([\d.]+)")
    return 0 < before < 0.05 and 0 < after < 0.2 and last < first and text.endswith("same names as before: True\n")


def tune_and_verify(text: str) -> bool:
    errors = numbers(text, r"gradient error (\S+),")
    tuned = [
        i for i, line in enumerate(line for line in text.splitlines() if "gradient error" in line) if "tuned" in line
    ]
    return bool(tuned) and all(errors[i] <= 1e-3 / 3 < 1e-3 < errors[i - 1] for i in tuned)


def kernel_microbenchmark(text: str) -> bool:
    return all(float(row.split()[2]) > 0 for row in text.splitlines() if row.startswith("reference"))


def profile_a_step(text: str) -> bool:
    trace = Path("trace.json").read_text(encoding="utf-8")
    return all(f'"name": "{part}"' in trace for part in ("forward", "backward", "optimizer"))


TRUE: dict[str, Callable[[str], bool]] = {
    check.__name__: check
    for check in (
        gru_swap, image_classifier, own_cell, transformer, tune_and_verify, kernel_microbenchmark, profile_a_step,
    )
}  # fmt: skip


def shape(line: str) -> str:
    """A line without its numbers, nor the spaces and names that go with them."""
    line = re.sub(r"aten::\w+", "aten::…", NUMBER.sub("#", line))
    return " ".join(re.sub(r"MGRIT, coarsening \S+ #/# cycles|Serial", "SOLVER", line).split())


@pytest.mark.parametrize("name", TRUE)
def test_example_shows_what_it_says(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**SMALL[name])
    text = capsys.readouterr().out
    assert TRUE[name](text), text
    shown = README.partition(f"## {name}.py")[2].partition("\n## ")[0]
    new = {shape(line) for line in text.splitlines()} - {shape(line) for line in shown.splitlines()}
    assert not new, f"examples/README.md shows other lines: {new}"


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        pytest.param(p.values[0], n, marks=p.marks)
        for p, n in zip(launcher.those_that_start("mpiexec", "forked"), (2, 4), strict=True)
    ],
)
def test_many_ranks_print_the_losses_of_one_process(name: str, ranks: int) -> None:
    done = launcher.run(name, ranks, FOLDER / "many_ranks.py", timeout=150)
    assert done.status == 0, done.everything
    shown = README.partition("## many_ranks.py")[2].partition("\n## ")[0]
    losses = numbers(shown, r"loss (\S+)")
    assert len(losses) == 4 and numbers(done.of_ranks[0], r"loss (\S+)") == pytest.approx(losses, rel=2e-3)
    networks = max(1, ranks // 2)
    for rank, text in enumerate(done.of_ranks):
        first = 32 * (rank % 2)
        assert f"network {rank // 2} of {networks}: layers {first} to {first + 31} of 64" in text, done.everything


@pytest.mark.parametrize("name", PROGRAMS)
def test_example_is_short_and_says_how_it_is_started(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    assert f"python examples/{name}.py" in source.split('"""')[1]
    assert f"[{name}.py](./{name}.py)" in README and f"## {name}.py" in README and name in SMALL
