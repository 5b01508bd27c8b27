"""A comparison: one recipe trained in several ways, from several seeds, every network tested with exact and with
parallel inference. Each run is an ordinary one, in a folder of its own below the comparison's:

    FOLDER/<variant>-seed-<seed>/    as `lpgpu train` leaves it
    FOLDER/comparison.md             the table
    FOLDER/comparison.png            test accuracy, or the recipe's own metric, by epoch and at the end
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from lpgpu.train.loop.training import train
from lpgpu.train.reports.compare_report import Outcome, draw_comparison, format_table
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.runs.metrics import read_records
from lpgpu.train.runs.run import Run, unused_folder
from lpgpu.train.setup.errors import InputError, TrainingDivergedError
from lpgpu.train.setup.networks import GRUOptions
from lpgpu.train.setup.options import TrainOptions
from lpgpu.train.setup.recipe import Recipe
from lpgpu.train.setup.words import counted

# What tells the runs of a comparison apart, and so is no option of the whole.
VARIED = ("seed", "solver", "formulation", "run_dir")


@dataclass(frozen=True)
class Variant:
    """A way to train: its name, and the options that make it."""

    name: str
    changes: dict[str, str]


def variants_of(recipe: Recipe) -> list[Variant]:
    """The ways to train a recipe: classic and implicit serially and implicit in parallel, or where there is one network
    only, serially and in parallel.

    >>> from lpgpu.train import find_recipe
    >>> [variant.name for variant in variants_of(find_recipe("peaks"))]
    ['serial', 'mgrit']
    """
    if isinstance(recipe.defaults, GRUOptions):
        ways = product(("classic", "implicit"), ("serial", "mgrit"))
        return [Variant(f"{cell}-{solver}", {"formulation": cell, "solver": solver}) for cell, solver in ways]
    return [Variant(solver, {"solver": solver}) for solver in ("serial", "mgrit")]


@dataclass(frozen=True)
class Comparison:
    """The runs of `recipe` with `options`, for each of `seeds` and `variants`, below `folder`.

    >>> from lpgpu.train import find_recipe
    >>> recipe = find_recipe("peaks")
    >>> comparison = Comparison.create(recipe, replace(recipe.defaults, epochs=1, layers=4), seeds=[0, 1])
    >>> print(comparison.table())  # comparison.run() trains, and returns it
    | training | inference | mean ± std | seed 0 | seed 1 | s/epoch |
    |---|---|---|---|---|---|
    | serial | serial | – | – | – | – |
    ...

    Raises `InputError` for no or negative seeds, or a folder that holds a single run.
    """

    recipe: Recipe
    options: TrainOptions
    seeds: Sequence[int]
    variants: Sequence[Variant]
    folder: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds are {list(self.seeds)}; expected one or more different integers ≥ 0")
        if not self.variants:
            raise InputError(f"no variants; expected some of {', '.join(v.name for v in variants_of(self.recipe))}")
        if (self.folder / "metrics.jsonl").exists():
            raise InputError(f"{self.folder} is the folder of a single run; choose another --run-dir")

    @classmethod
    def create(
        cls, recipe: Recipe, options: TrainOptions, seeds: Sequence[int], variants: Sequence[str] | None = None
    ) -> "Comparison":
        """The comparison in `options.run_dir`, begun there earlier or not, or in a new folder below `runs`.

        `variants` are names, None: all. Raises `InputError` for an unknown one.
        """
        known = {variant.name: variant for variant in variants_of(recipe)}
        unknown = [name for name in variants or () if name not in known]
        if unknown:
            raise InputError(f"there is no variant {', '.join(unknown)} of {recipe.name}; expected {', '.join(known)}")
        chosen = list(known.values()) if variants is None else [known[name] for name in variants]
        folder = options.run_dir or unused_folder(
            Path("runs") / f"compare-{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
        )
        return cls(recipe, options, seeds, chosen, folder)

    def run(self, tell: Callable[[str], None] = lambda line: None) -> str:
        """Train what is not finished, seed after seed, and return the table; `tell` hears a line after every run.

        The table and the plot are written anew after every run. A run that diverges is told of and left unfinished.

        Raises:
            InputError: a run in the folder was begun with other options, or is damaged; several ranks.
            DataError: the recipe's data are not there, or not right.
        """
        if not self.options.ranks.alone:
            raise InputError("a comparison is for one process; start it without mpiexec")
        for seed in self.seeds:
            for variant in self.variants:
                name = f"{variant.name}, seed {seed}"
                try:
                    tell(f"{name}: {'trained' if self._train(variant, seed) else 'was finished already'}")
                except TrainingDivergedError as error:
                    tell(f"{name}: training diverged: {error}")
                self.write()
        return self.table()

    def table(self) -> str:
        """What the runs reach on the test set, as a markdown table, of the runs that are finished."""
        return format_table(list(self.outcomes()), self.seeds)

    def outcomes(self) -> Iterator[Outcome]:
        """What each run has measured so far."""
        for variant in self.variants:
            for seed in self.seeds:
                metrics = self._folder(variant, seed) / "metrics.jsonl"
                yield Outcome(variant.name, seed, tuple(read_records(metrics)) if metrics.exists() else ())

    def write(self) -> None:
        """Write `comparison.md` and, once an epoch is finished, `comparison.png`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "comparison.md") as file:
            file.write(f"# {self.recipe.name}, {counted(self.options.epochs, 'epoch')}\n\n{self.table()}\n".encode())
        outcomes = [outcome for outcome in self.outcomes() if outcome.epochs]
        if outcomes:
            draw_comparison(outcomes, self.folder / "comparison.png")

    def _folder(self, variant: Variant, seed: int) -> Path:
        return self.folder / f"{variant.name}-seed-{seed}"

    def _train(self, variant: Variant, seed: int) -> bool:
        """Bring one run to its end; False where it was there."""
        folder = self._folder(variant, seed)
        changes: dict[str, Any] = {**variant.changes, "seed": seed}
        options = replace(self.options, **changes, run_dir=folder)
        if not (folder / "checkpoint.pt").exists():
            # what is there without a checkpoint is of a run that was interrupted before its first step
            (folder / "config.json").unlink(missing_ok=True)
            train(Run.create(self.recipe, options))
            return True
        given = {f.name: getattr(options, f.name) for f, _ in options.typed_fields() if f.name != "run_dir"}
        run = Run.resume(folder, given, recipe_name=self.recipe.name)
        summary = Outcome(variant.name, seed, tuple(read_records(run.metrics)) if run.metrics.exists() else ()).summary
        if summary is not None and summary["epochs"] == options.epochs:
            return False
        train(run)
        return True
