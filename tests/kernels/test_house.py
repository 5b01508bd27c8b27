"""Rules of the kernels' room: few arguments, and the same files in every operation's folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from lpgpu.kernels import registry

ROOM = Path(__file__).resolve().parents[2] / "kernels"
MOST_ARGUMENTS = 8
FILES = {
    "__init__.py",
    "configurations.py",
    "fused.py",
    "operators.py",
    "reference.py",
    "tiles.py",
    "triton_kernels.py",
}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the room but Triton kernels, with the name of its file."""
    for file in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and not any("jit" in ast.unparse(d) for d in node.decorator_list):
                yield str(file.relative_to(ROOM)), node


def test_no_function_takes_more_than_eight_arguments() -> None:
    counted = {
        f"{file}: {function.name}": len(function.args.posonlyargs + function.args.args + function.args.kwonlyargs)
        for file, function in functions()
    }
    assert len(counted) > 200
    assert not {name: count for name, count in counted.items() if count > MOST_ARGUMENTS}


@pytest.mark.parametrize("operation", registry.packages())
def test_every_operation_has_the_same_files(operation: str) -> None:
    assert {file.name for file in (ROOM / operation).iterdir()} >= FILES
