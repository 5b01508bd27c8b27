"""The run folder: never overwritten, and resumed only as the run it holds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from lpgpu.train import InputError, Run, TrainOptions, find_recipe, train
from lpgpu.train.runs.run import _claimed
from tests.train.helpers import tiny_run


def test_folder_with_something_in_it_is_refused_untouched(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty, and nothing in it was touched"):
        tiny_run(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_is_taken(tmp_path: Path):
    assert tiny_run(tmp_path).folder == tmp_path


def test_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made the folder of a run"):
        tiny_run(tmp_path / "file")


def test_default_folders_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    runs = [Run.create(find_recipe("digits"), TrainOptions()) for _ in range(3)]
    assert len({run.folder for run in runs}) == 3
    assert all(run.folder.parent == Path("runs") and run.folder.name.startswith("digits-") for run in runs)


def test_resuming_what_is_no_run(tmp_path: Path):
    with pytest.raises(InputError, match="is not the folder of a run"):
        Run.resume(tmp_path, {})
    (tmp_path / "config.json").write_text('{"recipe": "digits"')
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        Run.resume(tmp_path, {})


def test_resuming_without_a_checkpoint(tmp_path: Path):
    run = tiny_run(tmp_path / "run")
    with pytest.raises(InputError, match="has nothing to continue from"):
        Run.resume(run.folder, {})


def test_resuming_as_another_run(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=1)
    train(run)
    with pytest.raises(InputError, match="is a run of digits, not of peaks"):
        Run.resume(run.folder, {}, recipe_name="peaks")
    with pytest.raises(
        InputError, match=r"channels is 3, but the run of .* has 2; a resumed run may only change epochs"
    ):
        Run.resume(run.folder, {"channels": 3})
    assert Run.resume(run.folder, {"channels": 2, "epochs": 5}).options.epochs == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_run_of_a_gpu_continues_on_a_cpu(tmp_path: Path):
    run = tiny_run(tmp_path / "run")
    run.checkpoint.touch()
    config = run.folder / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    with pytest.raises(InputError, match="device is 'cuda', but PyTorch sees 0 CUDA devices"):
        Run.resume(run.folder, {})
    assert Run.resume(run.folder, {"device": "cpu"}).options.device == "cpu"


def test_unknown_recipe_lists_those_there_are():
    names = (
        "adding, char-lm, digits, fashion-mnist, hmdb51, indian-pines, lorenz, mnist, peaks, resnet-fashion, "
        "seq-digits, seq-mnist, uci-har, vit-digits"
    )
    with pytest.raises(InputError, match=f"there is no recipe 'cifar'; expected one of {names}"):
        find_recipe("cifar")


def test_of_many_that_begin_a_run_in_one_folder_one_does(tmp_path: Path):
    ready = threading.Barrier(4)

    def begin(folder: Path) -> bool:
        ready.wait(20)
        return _claimed(folder)

    with ThreadPoolExecutor(4) as pool:
        for number in range(50):
            assert sum(pool.map(begin, [tmp_path / str(number)] * 4)) == 1


@pytest.mark.usefixtures("no_plots")
def test_a_run_is_trained_by_one_process(tmp_path: Path):
    run = tiny_run(tmp_path / "run", epochs=1)
    with run.locked(), pytest.raises(InputError, match="another process is training the run of"):
        train(Run.resume(run.folder, {}) if run.checkpoint.exists() else run)
    assert not run.checkpoint.exists()
    train(run)


@pytest.mark.parametrize("options", [{"mgopt": 9}, {"control": "adaptive", "solver": "serial"}])
def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(InputError, match=r"take less|use --solver mgrit"):
        train(tiny_run(tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_plots")
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run", epochs=1)
    train(run)
    before = run.checkpoint.read_bytes()

    def full(state: object, file: Any) -> None:
        file.write(b"some")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot be written to any more .*unexpected pos"):
        train(Run.resume(run.folder, {"epochs": 2}))
    assert run.checkpoint.read_bytes() == before
    assert not list(run.folder.glob(".checkpoint*"))
