"""The fused kernels in Triton's interpreter, a process to each file: what is decorated there cannot be compiled."""

import importlib.util
from pathlib import Path

import pytest

from tests.kernels.subprocess_tests import run_tests

FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_interpreted(file: Path) -> None:
    run_tests(file, TRITON_INTERPRET="1", LPGPU_KERNELS="fused")
