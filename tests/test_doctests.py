"""The examples of docstrings run, and print what they say; public names have one.

torch, nn and the public names of lpgpu are there without an import.
"""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import lpgpu
from lpgpu.kernels import registry

HOME = Path(lpgpu.__file__).parent
FOLDERS = [HOME, (HOME / "kernels").resolve()]
EXAMPLE = ">>> "


def _module(path: Path) -> str:
    """The name that the file's module is imported by."""
    folder = next(folder for folder in reversed(FOLDERS) if path.is_relative_to(folder))
    parts = path.relative_to(folder).with_suffix("").parts
    room = ["lpgpu"] if folder == HOME else ["lpgpu", "kernels"]
    return ".".join([*room, *(part for part in parts if part != "__init__")])


MODULES = sorted(
    {
        _module(path)
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        if EXAMPLE in path.read_text(encoding="utf-8") and (folder != HOME or not path.is_relative_to(HOME / "kernels"))
    }
)  # others are not imported: Triton's would need triton, and could not be interpreted after that


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    known = {"torch": torch, "nn": torch.nn} | {name: getattr(lpgpu, name) for name in lpgpu.__all__}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(module, globs=known | vars(module), optionflags=flags)
    assert not failed and tried


ROOMS = ["lpgpu", "lpgpu.nn", "lpgpu.train", *(f"lpgpu.kernels.{name}" for name in registry.packages())]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_an_example(room: str) -> None:
    """Of a class in its docstring or in one of its methods'."""
    module = importlib.import_module(room)
    named = {name: getattr(module, name) for name in module.__all__}
    lacking = [name for name, thing in named.items() if _needs_one(thing) and EXAMPLE not in _docstrings(thing)]
    assert not lacking


def _needs_one(thing: object) -> bool:
    """Classes but exceptions, and functions."""
    return inspect.isroutine(thing) or (inspect.isclass(thing) and not issubclass(thing, BaseException))


def _docstrings(thing: object) -> str:
    members = vars(thing).values() if inspect.isclass(thing) else ()
    functions = [getattr(member, "__func__", getattr(member, "fget", member)) for member in members]
    return "\n".join(inspect.getdoc(each) or "" for each in [thing, *filter(inspect.isroutine, functions)])
