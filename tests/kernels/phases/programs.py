"""Programs of this folder: phases of CUDA C++ kernels compiled for the CPU, tensors in and out through files."""

import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SANITIZERS = {"memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], "threads": ["-fsanitize=thread"]}
FLAGS = ["-std=c++20", "-O0", "-g1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", "-pthread"]
FLAGS += ["-Wno-unknown-pragmas"]
SECONDS = 300
ENVIRONMENT = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}


def built(folder: Path, *names: str) -> dict[tuple[str, str], Path]:
    """(name, sanitizer) → the program, all compiled side by side."""
    wanted = [(name, sanitizer) for name in names for sanitizer in SANITIZERS]
    with ThreadPoolExecutor(2) as pool:
        programs = pool.map(lambda each: _build(folder, *each), wanted)
        return dict(zip(wanted, programs, strict=True))


def run(
    program: Path, words: list[str], head: bytes, tensors: Iterable[Tensor], file: Path, *, barriers: bool = True
) -> Tensor:
    """Write head and tensors to `file`, run `program words file`, and return what it appended, flat.

    Raises:
        RuntimeError: with what the program said, where it failed.
    """
    given = head + b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)
    file.write_bytes(given)
    command = [str(program), *words, str(file), *([] if barriers else ["without-barriers"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=ENVIRONMENT)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}\n{done.stderr}")
    return torch.frombuffer(bytearray(file.read_bytes()[len(given) :]), dtype=torch.float32)


def layout(program: Path) -> list[int]:
    """What the program prints of its structures' sizes."""
    done = subprocess.run([program, "layout"], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return [int(word) for word in done.stdout.split()]


def why_not_watched(program: Path) -> str | None:
    """Why a program cannot run under ThreadSanitizer here, or None."""
    try:
        layout(program)
    except RuntimeError as error:
        return f"ThreadSanitizer does not run here: {str(error)[:200]}"
    return None


def _build(folder: Path, name: str, sanitizer: str) -> Path:
    program = folder / f"{name}-{sanitizer}"
    command = ["g++", *FLAGS, *SANITIZERS[sanitizer], "-o", str(program), str(FOLDER / f"{name}.cpp"), "-latomic"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return program
