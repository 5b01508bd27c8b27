"""All operations, found by their folders: a package of `lpgpu.kernels` with an `operators` module is one."""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from lpgpu.kernels.configuration import Configuration
from lpgpu.kernels.operation import REGISTRY, Operation


@cache
def packages() -> tuple[str, ...]:
    """The names of the operations, such as "dense_step".

    >>> packages()
    ('affine_scan', 'conv_step', 'dense_step', 'fas', 'implicit_gru')
    """
    found = (module.name for module in pkgutil.iter_modules(import_module("lpgpu.kernels").__path__) if module.ispkg)
    return tuple(name for name in found if find_spec(f"lpgpu.kernels.{name}.operators"))


def operations() -> dict[str, Operation]:
    """Every function of every operation, by names such as "dense_step.sweep".

    >>> operations()["fas.residual_norm"].operator
    <CustomOpDef(lpgpu::fas_residual_norm)>
    """
    for name in packages():
        import_module(f"lpgpu.kernels.{name}.operators")
    return dict(sorted(REGISTRY.items()))


def configurations() -> list[Configuration]:
    """Every Triton kernel as it is shipped; needs Triton."""
    modules = (f"lpgpu.kernels.{name}.configurations" for name in packages())
    return [each for module in modules if find_spec(module) for each in import_module(module).configurations()]
