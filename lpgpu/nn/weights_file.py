"""Whole networks' weights in a file of safetensors, which other tools read and no pickle is needed for.

What P ranks save, Q ranks load: the file holds what `full_state_dict` gives, under the same names.
"""

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lpgpu.nn.state import full_state_dict, load_full_state_dict
from lpgpu.nn.verify import communicator_of


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write `full_state_dict(module)` to a file of safetensors, in place of one that is there: whole, or not at all.

    Collective: the first rank of a network writes, and no rank returns before the file is there.

    >>> net = LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0)
    >>> save_weights(net, "net.safetensors")
    >>> twin = LayerParallel(None, lambda: nn.Linear(2, 2), 6, 1.0)
    >>> load_weights(twin, "net.safetensors")
    >>> torch.equal(net.layers.weight, twin.layers.weight)
    True

    Raises:
        ImportError: without the package safetensors.
        TypeError: for a state that is not of tensors only, as of modules with an extra state.
        OSError: where the file cannot be written.
        ValueError: with the reason, on the ranks that do not write.
    """
    library()
    state, communicator = full_state_dict(module), communicator_of(module)

    def write() -> None:
        if communicator.rank == 0:
            write_weights(state, Path(path))

    communicator.agree(write, dict)


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load what `save_weights` wrote, on whatever number of ranks. Collective; every rank reads the file.

    >>> gru, twin = GRU(2, 3), GRU(2, 3)
    >>> save_weights(gru, "gru.safetensors")
    >>> load_weights(twin, "gru.safetensors")
    >>> torch.equal(gru.weight_hh_l0, twin.weight_hh_l0)
    True

    Raises:
        ImportError: without the package safetensors.
        OSError: where the file cannot be read on this rank; a ValueError where that is so on another one.
        ValueError: for what is no file of safetensors, is damaged, or on several ranks is of another number of layers.
        RuntimeError: as `module.load_state_dict`, for other names or shapes.
    """
    of_torch = library()
    state: dict[str, Tensor] = {}

    def read() -> None:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, "A folder, where a file of safetensors was expected", str(path))
        try:
            state.update(of_torch.load_file(path))
        except OSError:
            raise
        except Exception as error:  # SafetensorError, a plain Exception
            raise ValueError(f"{path} is no file of safetensors, or damaged: {error}") from error

    communicator_of(module).agree(read, dict)
    load_full_state_dict(module, state)


def write_weights(state: Mapping[str, Any], path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a state of tensors, and what is said `about` it, to `path`; see `save_weights`. Not collective."""
    of_torch = library()
    others = {name: type(value).__name__ for name, value in state.items() if not isinstance(value, Tensor)}
    if others:
        listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
        raise TypeError(
            f"the state has entries that are no tensors: {listed}; safetensors holds tensors only, use "
            "torch.save(full_state_dict(...))"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        of_torch.save_file(_apart(state), temporary, {"format": "pt", **(about or {})})
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are the owner's alone
        os.replace(temporary, path)
    except OSError:
        raise
    except Exception as error:  # SafetensorError, also where a disk is full
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def library() -> Any:
    """The module safetensors.torch.

    Raises:
        ImportError: saying how it is installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "files of safetensors need the package safetensors: pip install lpgpu[safetensors]", name="safetensors"
        ) from error
    return safetensors.torch


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values on the CPU, contiguous, none sharing memory with another: safetensors refuses what does."""
    seen: set[int] = set()
    apart = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return apart


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
