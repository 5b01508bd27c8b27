"""Weights in files of safetensors: they come back, and what cannot be written or read is refused with its reason."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lpgpu import LayerParallel, load_weights, save_weights

safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors: pip install safetensors")


def network(layers: int = 6) -> nn.Module:
    deep = LayerParallel(None, lambda: nn.Linear(3, 3), layers, 1.0)
    net = nn.Sequential(nn.Linear(2, 3), deep, nn.BatchNorm1d(3), nn.Linear(3, 2).bfloat16())
    net.register_buffer("steps", torch.tensor(7))
    return net


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    net, twin = network(), network()
    save_weights(net, tmp_path / "w.safetensors")
    load_weights(twin, tmp_path / "w.safetensors")
    state = net.state_dict()
    assert state.keys() == twin.state_dict().keys() == safetensors.load_file(tmp_path / "w.safetensors").keys()
    assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_tied_and_transposed_weights(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net[2].weight = nn.Parameter(net[0].weight.detach().T)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.zero_(), twin[2].weight.zero_()
    save_weights(net, tmp_path / "w.safetensors")
    load_weights(twin, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))
    assert twin[1].weight is twin[0].weight


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(
        TypeError, match=r"no tensors: 0._extra_state \(dict\); safetensors holds tensors only, use torch"
    ):
        save_weights(nn.Sequential(Counter()), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(network(layers=5), tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError):
        load_weights(network(), tmp_path / "other.safetensors")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        load_weights(network(), tmp_path)
    content = (tmp_path / "w.safetensors").read_bytes()
    for damaged in (b"", b"nothing of the kind", content[: len(content) // 2]):
        (tmp_path / "w.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="is no file of safetensors, or damaged"):
            load_weights(network(), tmp_path / "w.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(network(), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()

    def half_a_save(tensors: object, path: str, about: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space")  # SafetensorError is no OSError either

    monkeypatch.setattr(safetensors, "save_file", half_a_save)
    with pytest.raises(OSError, match=r"w\.safetensors could not be written: no space"):
        save_weights(network(), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match=r"No such file.*nowhere'$"):
        save_weights(network(), tmp_path / "nowhere" / "w.safetensors")


@pytest.mark.parametrize("call", [save_weights, load_weights])
def test_a_missing_package_is_named(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.torch")
    with pytest.raises(ImportError, match=r"need the package safetensors: pip install lpgpu\[safetensors\]"):
        call(network(), tmp_path / "w.safetensors")
