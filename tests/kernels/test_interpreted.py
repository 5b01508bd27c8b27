"""The fused kernels in Triton's interpreter, a process to each file: what is decorated there cannot be compiled."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_interpreted(file: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "LPGPU_KERNELS": "fused", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(file)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"{file.name} took more than 500 s:\n{(hung.stdout or b'').decode()[-5000:]}")
    print(done.stdout[-300:])
    if done.returncode != 0:
        pytest.fail(f"{file.name} under the interpreter:\n{done.stdout[-20000:]}{done.stderr[-5000:]}")
