"""Options that make no sense are refused at once, with what came and what was expected."""

import dataclasses
import math
from typing import Any, get_args

import pytest

from lpgpu import MGRIT, Parareal, Serial
from lpgpu.mgrit.cycle import CYCLES
from lpgpu.mgrit.options import Cycle
from lpgpu.nn.schemes import SCHEMES, Scheme
from tests.assertions import assert_mentions
from tests.settings import VISITS

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no levels": ({"levels": 0}, ["levels is 0", "at least 1"]),
    "negative levels": ({"levels": -2}, ["levels is -2", "at least 1"]),
    "fractional levels": ({"levels": 2.5}, ["levels is 2.5", "integer"]),
    "boolean levels": ({"levels": True}, ["levels is True", "integer"]),
    "coarsening one": ({"coarsening": 1}, ["coarsening is 1", "at least 2"]),
    "coarsening one, on a single level": ({"levels": 1, "coarsening": 1}, ["coarsening is 1", "at least 2"]),
    "coarsening zero": ({"coarsening": 0}, ["coarsening is 0", "at least 2"]),
    "fractional coarsening": ({"coarsening": 2.0}, ["coarsening is 2.0"]),
    "coarsening in words": ({"coarsening": "4"}, ["coarsening is '4'"]),
    "one of the coarsenings": ({"levels": 3, "coarsening": (4, 1)}, ["coarsening is 1", "at least 2"]),
    "too few coarsenings": ({"levels": 4, "coarsening": (4, 4)}, ["coarsening is (4, 4)", "3 of them"]),
    "too many coarsenings": ({"levels": 2, "coarsening": [4, 4]}, ["coarsening is", "1 of them"]),
    "coarsening by a dict": ({"coarsening": {0: 4}}, ["coarsening is {0: 4}"]),
    "no coarsening": ({"coarsening": None}, ["coarsening is None"]),
    "negative iterations": ({"iterations": -1}, ["iterations is -1", "at least 0"]),
    "fractional iterations": ({"iterations": 1.5}, ["iterations is 1.5", "integer"]),
    "negative adjoint iterations": ({"adjoint_iterations": -1}, ["adjoint_iterations is -1", "at least 0"]),
    "unknown relaxation": ({"relaxation": "CF"}, ["relaxation is 'CF'", "'F'", "'FCF'"]),
    "unknown relaxation, on a single level": ({"levels": 1, "relaxation": "CF"}, ["relaxation is 'CF'", "'FCF'"]),
    "one of the relaxations": ({"relaxation": ("F", "C")}, ["relaxation is 'C'"]),
    "too many relaxations": ({"relaxation": ("F", "F", "F")}, ["relaxation is", "2 of them"]),
    "unknown cycle": ({"cycle": "K"}, ["cycle is 'K'", "'V', 'F'"]),
    "cycle by a list": ({"cycle": ["V"]}, ["cycle is ['V']"]),
    "negative tolerance": ({"tolerance": -1e-3}, ["tolerance is -0.001", "≥ 0"]),
    "infinite tolerance": ({"tolerance": math.inf}, ["tolerance is inf"]),
    "undefined tolerance": ({"adjoint_tolerance": math.nan}, ["adjoint_tolerance is nan"]),
    "tolerance in words": ({"tolerance": "1e-3"}, ["tolerance is '1e-3'"]),
    "no coarse steps": ({"min_coarse_steps": 0}, ["min_coarse_steps is 0", "at least 1"]),
    "unknown delta": ({"delta": "full"}, ["delta is 'full'", "'diagonal'"]),
    "unknown guess": ({"initial_guess": "zero"}, ["initial_guess is 'zero'", "'coarse', 'nested', 'constant'"]),
    "unknown store": ({"store": "none"}, ["store is 'none'", "'all', 'c_points'"]),
    "empty chunk": ({"chunk": 0}, ["chunk is 0", "at least 1"]),
    "fractional chunk": ({"chunk": 0.5}, ["chunk is 0.5", "integer"]),
    "unknown reaction": ({"on_divergence": "ignore"}, ["on_divergence is 'ignore'", "'warn', 'raise'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    options, words = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        MGRIT(**options)
    assert_mentions(caught.value, [*words, "expected"])


def test_misspelt_option_is_no_option() -> None:
    with pytest.raises(TypeError, match="iteration"):
        MGRIT(iteration=3)  # pyright: ignore


def test_options_go_by_name_only() -> None:
    with pytest.raises(TypeError):
        MGRIT(3)  # pyright: ignore


def test_defaults_are_the_contract() -> None:
    expected = {
        "levels": 3,
        "coarsening": 4,
        "iterations": 2,
        "adjoint_iterations": 1,
        "relaxation": "FCF",
        "cycle": "V",
        "tolerance": None,
        "adjoint_tolerance": None,
        "min_coarse_steps": 2,
        "delta": "auto",
        "initial_guess": "coarse",
        "store": "all",
        "on_divergence": "warn",
    }
    assert {name: getattr(MGRIT(), name) for name in expected} == expected


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MGRIT)])
def test_options_are_frozen(name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(MGRIT(), name, 7)


def test_options_are_values() -> None:
    assert MGRIT(levels=2) == MGRIT(levels=2) != MGRIT(levels=3)
    assert hash(MGRIT(coarsening=(4, 2))) == hash(MGRIT(coarsening=(4, 2)))
    assert dataclasses.replace(MGRIT(), iterations=5).iterations == 5
    assert Serial() == Serial()


@pytest.mark.parametrize("coarsening", [(8, 2), [8, 2]])
def test_one_option_or_one_per_level(coarsening) -> None:
    solver = MGRIT(levels=3, coarsening=coarsening, relaxation=("F", "FCF"))
    assert solver.coarsening_per_level == (8, 2)
    assert solver.relaxation_per_level == ("F", "FCF")
    assert MGRIT(levels=4, coarsening=5).coarsening_per_level == (5, 5, 5)


def test_levels_is_a_maximum() -> None:
    assert [len(MGRIT(levels=9, coarsening=4).hierarchy(n).grids) for n in (1, 7, 8, 32, 128)] == [1, 1, 2, 3, 4]


def test_parareal_is_two_levels_with_f_relaxation() -> None:
    assert Parareal(coarsening=8, iterations=3) == MGRIT(levels=2, relaxation="F", coarsening=8, iterations=3)
    assert Parareal(store="c_points").store == "c_points"
    with pytest.raises(ValueError, match="coarsening is 1"):
        Parareal(coarsening=1)


def test_every_cycle_that_can_be_asked_for_is_there() -> None:
    """The list of them is `Cycle`: the command line and the tests take it from there."""
    assert set(get_args(Cycle)) == set(CYCLES) == set(VISITS)
    assert set(get_args(Scheme)) == set(SCHEMES)
