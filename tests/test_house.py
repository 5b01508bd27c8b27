"""The house rules: style, formatting, types, the direction of imports, and an import that needs nothing optional."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TOOLS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "--diff", "."],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
    "import contract": ["-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"],
}

IMPORT_BARE = """
import importlib.abc, sys

hidden = {"mpi4py", "cupy", "triton", "nvtx", "sklearn", "matplotlib", "tqdm"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden by the test)", name=name)

sys.meta_path.insert(0, Absent())
import lpgpu  # needs torch and numpy only: a GPU machine may have nothing else
hidden -= {"sklearn", "matplotlib", "tqdm"}
import lpgpu.cli
"""


def run_python(*args: str) -> None:
    """Runs this interpreter in the repository root; a failure shows what the tool said."""
    # pyright's wrapper would fetch another version if the environment asked for one
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYRIGHT_PYTHON_")}
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    if done.returncode != 0:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_is_content(tool: str) -> None:
    run_python(*TOOLS[tool])


def test_import_needs_nothing_optional() -> None:
    run_python("-c", IMPORT_BARE)
