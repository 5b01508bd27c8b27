"""Compile Triton kernels ahead of time, without a GPU, and read off what they take of one.

    python -m tests.kernels.compiled            compare every shipped configuration with resources.json
    python -m tests.kernels.compiled --update   write resources.json anew

Registers, stack and shared memory are those of the compiled binary; spills (STL, LDL), matrix instructions and barriers
are counted in its machine code.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lpgpu.kernels import registry
from lpgpu.kernels.configuration import Configuration

TABLE = Path(__file__).with_name("resources.json")


@dataclass(frozen=True)
class Resources:
    """What one compiled configuration takes."""

    registers: int
    stack: int
    spills: int
    shared: int
    matrix_instructions: int
    barriers: int
    num_warps: int
    uses_dots: bool


@cache
def configurations() -> dict[str, tuple[Configuration, int]]:
    """Every shipped configuration with each architecture it is for, by the name it has in the table."""
    found = {}
    for configuration in registry.configurations():
        for arch in configuration.archs:
            key = f"{configuration.key} sm_{arch}"
            if key in found:
                raise ValueError(f"two configurations are called {key!r}")
            found[key] = configuration, arch
    return found


def compile_all(workers: int = 2) -> dict[str, Resources]:
    """The resources of every shipped configuration, compiled side by side."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        keys = list(configurations())
        return dict(zip(keys, pool.map(_resources_of, keys, chunksize=4), strict=True))


def read_table() -> dict[str, Resources]:
    """The checked-in table."""
    return {key: Resources(**values) for key, values in json.loads(TABLE.read_text()).items()}


def binary_of(configuration: Configuration, arch: int) -> Any:
    """One configuration, compiled for one architecture."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = configuration.kernel
    signature = {name: configuration.signature.get(name, "constexpr") for name in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in configuration.constexprs.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, type in enumerate(signature.values()) if type.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": configuration.num_warps, "num_stages": configuration.num_stages}
    return compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def machine_code(configuration: Configuration, arch: int) -> str:
    """What was compiled, disassembled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary_of(configuration, arch).asm["cubin"])
        file.flush()
        return _tool("nvdisasm", "-c", file.name)


def resources(configuration: Configuration, arch: int) -> Resources:
    """Compile one configuration for one architecture, and look at what came."""
    binary = binary_of(configuration, arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    return Resources(
        registers=int(re.findall(r"REG:(\d+)", usage)[-1]),
        stack=int(re.findall(r"STACK:(\d+)", usage)[-1]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        shared=binary.metadata.shared,
        matrix_instructions=len(re.findall(r"\b(?:HMMA|HGMMA|DMMA)\b", code)),
        barriers=len(re.findall(r"\bBAR\b", code)),
        num_warps=configuration.num_warps,
        uses_dots=configuration.uses_dots,
    )


def _resources_of(key: str) -> Resources:
    return resources(*configurations()[key])


def _tool(name: str, *arguments: str) -> str:
    import triton.backends.nvidia

    program = Path(triton.backends.nvidia.__file__).parent / "bin" / name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Compile everything; write the table, or print what differs from it."""
    os.environ.pop("TRITON_INTERPRET", None)
    now = compile_all()
    if "--update" in sys.argv:
        TABLE.write_text(json.dumps({key: asdict(now[key]) for key in sorted(now)}, indent=1) + "\n")
        return print(f"{len(now)} configurations in {TABLE}")
    then = read_table()
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            print(f"{key}\n  table: {then.get(key)}\n  now:   {now.get(key)}")


if __name__ == "__main__":
    main()
