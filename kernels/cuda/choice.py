"""Where kernels in CUDA C++ take the place of Triton's: by default where an H100 has shown that they are faster.

`LPGPU_CUDA` (read once), or `with choice("nowhere")`, overrides that: 0 is nowhere, 1 wherever they can run.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

Where = Literal["nowhere", "measured", "anywhere"]

_NAMES: dict[str, Where] = {"0": "nowhere", "auto": "measured", "1": "anywhere"}
_MEANING: dict[Where, str] = {
    "nowhere": "never, as LPGPU_CUDA=0 says",
    "measured": "where they were measured to be faster, on an H100 (LPGPU_CUDA=0: never, 1: wherever they can run)",
    "anywhere": "wherever they can run, as LPGPU_CUDA=1 says",
}
_chosen: Where | None = None


def where() -> Where:
    """What the context manager says, else what `LPGPU_CUDA` says, else "measured".

    Raises:
        ValueError: where `LPGPU_CUDA` is none of 0, 1, auto.
    """
    return _chosen or _of_environment()


@contextmanager
def choice(place: Where) -> Iterator[None]:
    """Within the context, in all threads, CUDA C++ kernels run there."""
    global _chosen
    before, _chosen = _chosen, place
    try:
        yield
    finally:
        _chosen = before


def describe() -> str:
    """When CUDA C++ kernels run, in a line."""
    return _MEANING[where()]


@cache
def _of_environment() -> Where:
    given = os.environ.get("LPGPU_CUDA", "auto")
    if given not in _NAMES:
        raise ValueError(f"LPGPU_CUDA is {given!r}; expected 0 (never), 1 (wherever they can run) or auto")
    return _NAMES[given]
