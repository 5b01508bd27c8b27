"""Each recipe of CONTRIBUTING is followed to the letter, in a copy: it touches the files it names, and works."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.additions import ADDITIONS, Addition

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("lpgpu", "kernels", "tests")


def section(title: str) -> str:
    """A recipe, as CONTRIBUTING has it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("title", ADDITIONS)
def test_the_recipe_names_the_files_it_touches(title: str) -> None:
    touched, text = {*ADDITIONS[title].files, *ADDITIONS[title].lines}, section(title)
    if title == "Add a kernel":  # names the files of a folder, and more that only a GPU can show
        folder = {Path(name).name for name in touched if name.startswith("kernels/my_op/")}
        own = {name for name in re.findall(r"`(\w+\.py)`", text) if name != "checks.py"}
        assert own == folder and "`tests/kernels/interpreted/test_my_op.py`" in text
    else:
        assert set(re.findall(r"`((?:lpgpu|kernels|tests)/[\w/.]+\.py|CHANGELOG\.md)`", text)) == touched


# An editable install has a finder of its own, before PYTHONPATH, which would lead back to the repository.
SITE = """
import sys
from importlib.machinery import PathFinder

sys.meta_path.insert(0, PathFinder)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout, with all additions made: they do not disturb each other."""
    folder = tmp_path_factory.mktemp("copy")
    unwanted = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unwanted)
    for name in ("CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    for addition in ADDITIONS.values():
        make(addition, folder)
    return folder


def make(addition: Addition, folder: Path) -> None:
    """Write its files and its lines."""
    for name, text in addition.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if (folder / name).exists():
            raise FileExistsError(f"{name} is there already: the recipe needs another name")
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")
    for name, changes in addition.lines.items():
        text = (folder / name).read_text(encoding="utf-8")
        for after, line in changes:
            before, found, rest = text.partition(after) if after else (text, "", "")
            if found != after:
                raise LookupError(f"{name} has no {after!r} any more")
            text = before + found + line + rest
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("title", ["Add a recipe", *(title for title in ADDITIONS if title != "Add a recipe")])
def test_what_is_added_works(title: str, copy: Path) -> None:
    if title == "Add a kernel" and find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = os.environ | {"PYTHONPATH": str(copy), "LPGPU_TEST_EXAMPLES": "20", "OMP_NUM_THREADS": "1"}
    for command in ADDITIONS[title].commands:
        if "tests/kernels/interpreted/test_my_op.py" in command:
            environment = environment | {"TRITON_INTERPRET": "1", "LPGPU_KERNELS": "fused"}
        else:
            environment.pop("TRITON_INTERPRET", None)
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-5000:]}{done.stderr[-3000:]}"
