"""Which backend runs, that it is never changed in silence, and that what ran is counted."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lpgpu.kernels import dispatch
from lpgpu.kernels.dispatch import KernelFallbackError, KernelFallbackWarning, backend, could_fuse, is_fused

CPU = torch.empty(1)
GPU: Any = SimpleNamespace(device=torch.device("cuda"))  # nothing but the device is looked at


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has run nothing yet, on a machine with Triton."""
    for name in ("LPGPU_KERNELS", "LPGPU_STRICT", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    dispatch.calls.clear()
    dispatch._of_environment.cache_clear()
    yield
    dispatch._of_environment.cache_clear()


def test_cpu_tensors_take_the_reference_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_fused("op", CPU, "too wide")
    assert dispatch.calls == {("op", "reference"): 1}
    assert dispatch.reasons["op"] == "the tensors are not on a GPU: the reference"
    assert not could_fuse(CPU)


def test_cuda_tensors_take_the_fused_kernel() -> None:
    assert could_fuse(GPU)
    assert is_fused("op", GPU)
    assert is_fused("op", GPU)
    assert dispatch.calls == {("op", "fused"): 2}
    assert dispatch.reasons["op"] == "fused"


def test_a_refusal_on_a_gpu_is_said_once_with_its_reason() -> None:
    with pytest.warns(KernelFallbackWarning, match="op: the fused kernel cannot run: too wide"):
        assert not is_fused("op", GPU, "too wide")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_fused("op", GPU, "too wide")
    with pytest.warns(KernelFallbackWarning, match="too long"):
        assert not is_fused("op", GPU, "too long")
    assert dispatch.calls == {("op", "reference"): 3}


def test_strict_makes_a_refusal_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPGPU_STRICT", "1")
    with pytest.raises(KernelFallbackError, match="too wide"):
        is_fused("op", GPU, "too wide")
    assert is_fused("op", GPU)
    assert not is_fused("op", CPU)


def test_without_triton_the_reference_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    with pytest.warns(KernelFallbackWarning, match="triton is not installed"):
        assert not is_fused("op", GPU)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPGPU_KERNELS", "reference")
    assert not could_fuse(GPU)
    assert not is_fused("op", GPU)
    assert dispatch.reasons["op"] == "the reference was asked for"
    monkeypatch.setenv("LPGPU_KERNELS", "fussed")
    dispatch._of_environment.cache_clear()
    with pytest.raises(ValueError, match="LPGPU_KERNELS is 'fussed'; expected one of auto, fused, reference"):
        is_fused("op", GPU)


def test_the_context_manager_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPGPU_KERNELS", "fused")
    with backend("reference"):
        assert not is_fused("op", GPU)
        with backend("auto"):
            assert is_fused("op", GPU)
            assert not is_fused("op", CPU)
    assert is_fused("op", GPU)
    with pytest.raises(ValueError, match="backend is 'cuda'"), backend("cuda"):  # pyright: ignore[reportArgumentType]
        pass


def test_asking_for_what_cannot_run_is_an_error() -> None:
    with backend("fused"):
        with pytest.raises(KernelFallbackError, match=r"cpu tensors need Triton's interpreter \(TRITON_INTERPRET=1\)"):
            is_fused("op", CPU)
        with pytest.raises(KernelFallbackError, match="too wide"):
            is_fused("op", GPU, "too wide")


def test_under_the_interpreter_fused_means_cpu_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not is_fused("op", CPU)
    with backend("fused"):
        assert is_fused("op", CPU)


def test_a_backend_chosen_holds_in_every_thread() -> None:
    """As autograd's, which run the backward pass of CUDA tensors."""
    with backend("reference"), ThreadPoolExecutor(1) as threads:
        assert threads.submit(dispatch.current_backend).result() == "reference"


def test_kernels_can_be_imported_without_triton() -> None:
    """A process in which `import triton` fails."""
    program = (
        "import sys; sys.modules['triton'] = None; import lpgpu; from lpgpu.kernels import dispatch; print('fine')"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("fine", 0), done.stderr
