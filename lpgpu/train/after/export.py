"""The network of a run as plain PyTorch, without anything of lpgpu: exact, layer after layer.

.pt2           a program of torch.export:  torch.export.load(path).module()(x)
.safetensors   its weights, for safetensors.torch.load_file
.pt            its weights, for torch.load
.onnx          for ONNX runtimes
"""

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu.nn.solver_module import solver_modules
from lpgpu.nn.weights_file import write_weights
from lpgpu.train.after.trained import trained
from lpgpu.train.runs.atomic import atomic_write
from lpgpu.train.setup.errors import InputError


def export_run(folder: Path, path: Path, device: str | None = "cpu") -> Path:
    """Write the network of the run in `folder` to a new file `path`, in the format that its name ends in.

    A program takes inputs `[batch, ...]` of any batch size, and returns scores `[batch, classes]`.

    >>> from dataclasses import replace
    >>> from lpgpu.train import Run, find_recipe, train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> summary = train(Run.create(recipe, options))
    >>> export_run(Path("peaks"), Path("weights.pt")).name
    'weights.pt'

    Raises `InputError` where there is no such run or no checkpoint, `path` exists, or ends in what is no format, or a
    package for it is missing; or under several ranks.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {', '.join(FORMATS)}")
    if path.exists():
        raise InputError(f"{path} exists, and was not touched; choose another --output")
    run, trainer = trained(folder, device)
    if not run.ranks.alone:
        raise InputError("a network is exported by one process; start it without mpiexec")
    inputs, _ = trainer.first_batch()
    try:
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / path.name
            FORMATS[path.suffix](plain_network(trainer.network).eval(), inputs, file)
            with atomic_write(path) as target:
                target.write(file.read_bytes())
    except ImportError as error:
        raise InputError(f"{path.suffix} needs a package that is missing: pip install {error.name}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def plain_network(network: nn.Module) -> nn.Module:
    """An independent copy of `network`, every part that is solved being its exact, sequential twin.

    >>> from lpgpu import LayerParallel
    >>> network = nn.Sequential(LayerParallel(None, lambda: nn.Linear(2, 2), 3, 1.0), nn.Linear(2, 5))
    >>> len(plain_network(network)[0])
    3
    """
    twins: dict[Any, nn.Module] = {part: _twin(part) for part in solver_modules(network)}
    names = {name: module for name, module in network.named_modules() if module in twins}
    if "" in names:
        return twins[names[""]]
    plain = copy.deepcopy(network)
    for name, part in names.items():
        plain.set_submodule(name, twins[part])
    return plain


def _twin(part: Any) -> nn.Module:
    """Every kind of network that is solved has one."""
    return part.to_sequential()


def _program(network: nn.Module, inputs: Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (inputs[:2],), dynamic_shapes=({0: batch},), strict=False)
    torch.export.save(program, path)


def _weights(network: nn.Module, inputs: Tensor, path: Path) -> None:
    torch.save(network.state_dict(), path)


def _safetensors(network: nn.Module, inputs: Tensor, path: Path) -> None:
    write_weights(network.state_dict(), path)


def _onnx(network: nn.Module, inputs: Tensor, path: Path) -> None:
    import onnxscript  # noqa: F401 - torch says in many lines that it is missing

    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(network, (inputs[:2],), str(path), dynamic_shapes=({0: batch},), dynamo=True, verbose=False)


FORMATS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
    ".pt2": _program,
    ".safetensors": _safetensors,
    ".pt": _weights,
    ".onnx": _onnx,
}
