"""Compile the CUDA C++ kernels with nvcc, without a GPU, and read off what they take of one.

    python -m tests.kernels.cuda_compiled            compare every kernel with cuda_resources.json
    python -m tests.kernels.cuda_compiled --update   write cuda_resources.json anew

Shared memory is dynamic: the launch's (`Plan.shared_bytes`), not the compiler's.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from lpgpu.kernels.cuda import modules

TABLE = Path(__file__).with_name("cuda_resources.json")
TARGETS = sorted(set(modules.TARGETS.values()))
SECONDS = 400


@dataclass(frozen=True)
class Resources:
    """What the compiler gave one kernel: registers a thread, and bytes spilled (stores, stack frame)."""

    registers: int
    spilled: int
    stack: int


def compile_all() -> dict[str, Resources]:
    """Every kernel of every source for every target, by "kernel target"."""
    wanted = [(source, target) for source in modules.SOURCES for target in TARGETS]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        return {
            key: each for found in pool.map(lambda each: _compile(*each, Path(folder)), wanted) for key, each in found
        }


def read_table() -> dict[str, Resources]:
    """The checked-in table."""
    return {key: Resources(**values) for key, values in json.loads(TABLE.read_text()).items()}


def _compile(source: str, target: str, folder: Path) -> list[tuple[str, Resources]]:
    out = folder / f"{Path(source).name}.{target}.cubin"
    command = [*modules.command(source, target, out), "-Xptxas", "-v"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    kernels = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
        done.stderr,
        re.DOTALL,
    )
    return [(f"{n} {target}", Resources(int(used), int(spilled), int(stack))) for n, stack, spilled, used in kernels]


def main() -> None:
    """Compile everything; write the table, or print what differs from it."""
    now = compile_all()
    if "--update" in sys.argv:
        lines = (f"{json.dumps(key)}: {json.dumps(asdict(now[key]))}" for key in sorted(now))
        TABLE.write_text("{\n " + ",\n ".join(lines) + "\n}\n")
        return print(f"{len(now)} kernels in {TABLE}")
    then = read_table()
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            print(f"{key}\n  table: {then.get(key)}\n  now:   {now.get(key)}")


if __name__ == "__main__":
    main()
