"""A trained run verified and exported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lpgpu import Serial
from lpgpu.cli import main
from lpgpu.train import InputError, Run, export_run, train, verify_run
from lpgpu.train.after.trained import trained
from tests.train.helpers import InterruptAtStep, tiny_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run of layers, and one of a GRU."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
        for name in ("digits", "seq-digits"):
            made[name] = tiny_run(folder / name, name, epochs=1, coarsening=2)
            train(made[name])
    return made


@pytest.mark.parametrize("name", ["digits", "seq-digits"])
def test_more_cycles_are_more_exact(runs: dict[str, Run], name: str):
    folder = runs[name].folder
    found = verify_run(folder, more=3)
    assert json.loads((folder / "verification.json").read_text()) == found
    assert (folder / "space-time.png").read_bytes().startswith(b"\x89PNG")
    errors = [cycle["gradient"] for cycle in found["cycles"]]
    assert [cycle["iterations"] for cycle in found["cycles"]] == [0, 1, 2, 3, 4, 5] and found["trained_with"] == [2, 1]
    assert errors[-1] < 0.1 * errors[0]
    steps = 8 if name == "digits" else 64
    assert all(len(layers) == steps for cycle in found["cycles"] for layers in cycle["layers"].values())


def test_verify_by_command_line(runs: dict[str, Run], capsys: pytest.CaptureFixture):
    folder = runs["digits"].folder
    assert main(["verify", str(folder), "--more", "0"]) == 0
    head, *rows, picture = capsys.readouterr().out.splitlines()
    assert head.split() == ["cycles", "states", "output", "gradient", "depth"] and len(rows) == 3
    assert rows[2].startswith("2/1 ") and rows[2].endswith("as trained") and picture.endswith("space-time.png")
    assert main(["verify", "/nowhere"]) == 2 and "is not the folder of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", str(folder), "--more", "-1"])


WITHOUT_LPGPU = """
import sys, torch
sys.modules["lpgpu"] = None
program = torch.export.load(sys.argv[1]).module()
torch.save([program(x) for x in torch.load(sys.argv[2])], sys.argv[3])
"""


@pytest.mark.parametrize("name", ["digits", "seq-digits"])
def test_an_exported_program_needs_nothing_of_lpgpu_and_is_exact(runs: dict[str, Run], name: str, tmp_path: Path):
    path = export_run(runs[name].folder, tmp_path / "network.pt2")
    _, trainer = trained(runs[name].folder)
    batches = [trainer.first_batch()[0][:n] for n in (1, 5)]
    torch.save(batches, tmp_path / "in.pt")
    command = [sys.executable, "-c", WITHOUT_LPGPU, str(path), str(tmp_path / "in.pt"), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, timeout=120)
    for part in trainer.problem.propagated:
        part.solver = Serial()
    with torch.no_grad():
        for x, scores in zip(batches, torch.load(tmp_path / "out.pt"), strict=True):
            torch.testing.assert_close(scores.detach(), trainer.network(x), rtol=1e-4, atol=1e-5)


def test_weights_alone(runs: dict[str, Run], tmp_path: Path):
    weights = torch.load(export_run(runs["digits"].folder, tmp_path / "w.pt"))
    assert sum(name.endswith("conv1.weight") for name in weights) in (0, 8) and len(weights) > 8
    save_file = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    path = export_run(runs["digits"].folder, tmp_path / "w.safetensors")
    assert save_file.load_file(path).keys() == weights.keys()


@pytest.mark.parametrize(("suffix", "package"), [(".safetensors", "safetensors"), (".onnx", "onnxscript")])
def test_a_missing_package_is_named(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs a package that is missing: pip install {package}"):
        export_run(runs["digits"].folder, tmp_path / f"network{suffix}")


def test_what_cannot_be_exported(runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = runs["digits"].folder
    for output, says in (("a.h5", "ends in '.h5'; expected one of .pt2"), ("no/a.pt2", "cannot be written")):
        assert main(["export", str(folder), "--output", str(tmp_path / output)]) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "a.pt2").touch()
    assert main(["export", str(folder), "--output", str(tmp_path / "a.pt2")]) == 2
    assert "exists, and was not touched" in capsys.readouterr().err


def test_a_run_that_still_trains_a_coarser_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run", nested=1)
    InterruptAtStep(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    with pytest.raises(InputError, match="still trains the coarser network of level 1"):
        trained(run.folder)
