"""What a host does for a GPU, without one: the tests below fake_gpu/, in a process that believes in a CUDA device."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.kernels.subprocess_tests import run_tests

HERE = Path(__file__).parent / "fake_gpu"
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets PyTorch's CPU build look at CUDA tensors."""
    library, home = tmp_path_factory.mktemp("guard") / "guard.so", Path(torch.__file__).parent
    command = [str(COMPILER), "-O1", "-std=c++20", "-shared", "-fPIC", f"-I{home / 'include'}", str(HERE / "guard.cpp")]
    subprocess.run([*command, f"-L{home / 'lib'}", "-lc10", "-o", str(library)], check=True, timeout=200)
    return library


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="what is interpreted cannot be compiled")
def test_fake_gpu(guard: Path) -> None:
    run_tests(HERE, LPGPU_GUARD=str(guard), LPGPU_STRICT="1")
