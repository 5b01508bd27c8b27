"""metrics.jsonl, and the means that go into it."""

import json
import math
from pathlib import Path

import pytest
import torch

from lpgpu.train import InputError, TrainingDivergedError
from lpgpu.train.runs.metrics import RunningMean, append_record, keep_epochs, mean_history, read_records, total_seconds


def write_epochs(path: Path, last: int) -> None:
    for epoch in range(1, last + 1):
        append_record(path, {"kind": "epoch", "epoch": epoch, "seconds": {"forward": 1.5, "data": 0.25}})


def test_mean_is_over_the_solves_that_came_so_far():
    assert mean_history([(4.0, 1.0), (2.0,), (6.0, 3.0)]) == [4.0, 2.0]
    assert mean_history([(), ()]) == []
    assert mean_history([(1.0, math.inf), (1.0, 1.0)]) == [1.0, None]


def test_running_mean_weights_batches_by_their_size():
    running = RunningMean(torch.device("cpu"))
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    running.add(torch.tensor(1.0), right.repeat(3, 1), torch.zeros(3, dtype=torch.int64))
    running.add(torch.tensor(5.0), wrong, torch.zeros(1, dtype=torch.int64))
    assert running.values() == (2.0, 0.75)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_running_mean_refuses_what_is_not_finite(loss: float):
    running = RunningMean(torch.device("cpu"))
    running.add(torch.tensor(loss), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TrainingDivergedError, match=f"the loss is {loss}"):
        running.values()


def test_keeping_epochs_drops_later_ones_and_the_summary(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_epochs(path, 4)
    append_record(path, {"kind": "summary"})
    keep_epochs(path, 2)
    assert [record["epoch"] for record in read_records(path)] == [1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert total_seconds(read_records(path)) == {"forward": 3.0, "data": 0.5}


@pytest.mark.parametrize(("level", "last", "kept"), [(2, 1, 1), (2, 2, 2), (1, 1, 3), (0, 0, 4), (0, 1, 5)])
def test_keeping_epochs_of_nested_iteration(tmp_path: Path, level: int, last: int, kept: int):
    path = tmp_path / "metrics.jsonl"
    done = [("nested", 2, 1), ("nested", 2, 2), ("nested", 1, 1), ("nested", 1, 2), ("epoch", 0, 1), ("epoch", 0, 2)]
    for kind, of_level, epoch in done:
        append_record(path, {"kind": kind, "epoch": epoch, **({"level": of_level} if of_level else {})})
    keep_epochs(path, last, level)
    came = [(r["kind"], r.get("level", 0), r["epoch"]) for r in read_records(path)]
    assert came == done[:kept]


def test_a_line_cut_off_at_the_end_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_epochs(path, 2)
    with open(path, "a") as file:
        file.write('{"kind": "epo')
    assert len(read_records(path)) == 2
    keep_epochs(path, 2)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_damage_elsewhere_is_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "epoch"\n{}\n')
    with pytest.raises(InputError, match=r"line 1 of .*metrics\.jsonl is no JSON"):
        read_records(path)
    with pytest.raises(InputError, match="expected the folder of a run"):
        read_records(tmp_path / "absent" / "metrics.jsonl")


@pytest.mark.parametrize("line", [b"3", b"[]", b"{}", b'"epoch"'])
def test_lines_that_are_no_records_are_named(tmp_path: Path, line: bytes):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"line 1 of .*metrics\.jsonl is no record of a run"):
        read_records(path)


def test_bytes_that_are_no_text(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        read_records(path)
