"""The examples of this room's docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import lpgpu.nn

MODULES = ["lpgpu.nn", *(module.name for module in pkgutil.walk_packages(lpgpu.nn.__path__, "lpgpu.nn."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert not failed
