"""Every shipped configuration of every Triton kernel compiles for its architectures, within its budget, without a GPU.

After a change that is meant to change the figures: python -m tests.kernels.compiled --update, and read the difference.
"""

import importlib.util
import os

import pytest

from lpgpu.kernels.devices import shared_limit
from tests.kernels.compiled import TABLE, Resources, compile_all, read_table

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels decorated under TRITON_INTERPRET=1 do not compile", allow_module_level=True)

GROWTH = 1.1  # compiler versions move registers by a few


@pytest.fixture(scope="module")
def compiled() -> dict[str, Resources]:
    return compile_all()


def test_the_table_is_of_the_shipped_configurations(compiled: dict[str, Resources]) -> None:
    assert sorted(compiled) == sorted(read_table()), f"{TABLE.name} is out of date"


def test_nothing_spills(compiled: dict[str, Resources]) -> None:
    assert not {key: each for key, each in compiled.items() if each.spills or each.stack}


def test_nothing_takes_more_shared_memory_than_there_is(compiled: dict[str, Resources]) -> None:
    assert not {key: each for key, each in compiled.items() if each.shared > shared_limit(int(key.rpartition("_")[2]))}


def test_products_are_made_on_the_matrix_units(compiled: dict[str, Resources]) -> None:
    """fp64 on sm_80 and above too (DMMA)."""
    assert not {key: each for key, each in compiled.items() if each.uses_dots and not each.matrix_instructions}


def test_nothing_has_grown(compiled: dict[str, Resources]) -> None:
    grown = {}
    for key, then in read_table().items():
        now = compiled[key]
        if now.registers > GROWTH * then.registers or now.shared > then.shared or now.barriers > then.barriers:
            grown[key] = (then, now)
    assert not grown
