"""`make gpu`, as far as it can be run without a GPU: nothing that fails, dies or hangs ends it, and time is kept."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = """torch torchgen functorch numpy numpy.libs triton pytest _pytest pluggy iniconfig packaging pygments py
    typing_extensions sympy mpmath networkx jinja2 markupsafe filelock fsspec setuptools"""

STUBS = {
    "nvidia-smi": "echo NVIDIA H100 of straw, 580.0",
    "compute-sanitizer": """for word; do case "$word" in *python*) break;; esac; shift; done
        "$@" && echo "========= ERROR SUMMARY: 0 errors\"""",
    "ncu": """echo '"ID","Kernel Name","gpu__time_duration.sum"'
        echo '"","","ns"'
        echo '"0","gru_sweep","1200"'""",
}

BAD_WORKER = """
import json, os, sys, time
print(json.dumps({"started": 1}), flush=True)
for line in sys.stdin:
    name = line.strip()
    if name == "dies":
        print(json.dumps({"half": 1}), flush=True)
        os.write(2, b"last words")
        os._exit(11)
    if name == "hangs":
        time.sleep(100)
    print(json.dumps({"value": name}), flush=True)
    print(json.dumps({"end": name}), flush=True)
"""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python that has torch, numpy, triton and pytest, with what these need, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=60)
    links = tmp_path / "packages"
    links.mkdir()
    for name in PACKAGES.split():
        spec = importlib.util.find_spec(name) if "." not in name else None
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is not None:
            source = origin.parent if origin.name == "__init__.py" else origin
            (links / source.name).symlink_to(source)
    site = next((tmp_path / "bare" / "lib").glob("python*/site-packages"))
    (site / "links.pth").write_text(f"{links}\n")
    return tmp_path / "bare" / "bin" / "python"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A driver that is not there, a sanitizer and a profiler of straw, and no index."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "PYTEST", "VIRTUAL", "TRITON"))}
    return kept | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PIP_NO_INDEX": "1"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_it_measures_on_a_bare_machine(bare: Path, environment: dict[str, str], tmp_path: Path) -> None:
    results, began = tmp_path / "results", time.monotonic()
    command = ["make", "gpu", f"PYTHON={bare}", "MINUTES=2.5", f"RESULTS={results}"]
    only = {
        "LPGPU_REHEARSE": "1",
        "LPGPU_ONLY": "^smoke gru forward H=64 fp32|^serial.*fp32|^solver gru.*fp32|^kernel fas.*fp32|^trained"
        "|^profile (ncu|memcheck)",
        "LPGPU_COMMIT": "straw",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment | only, capture_output=True, text=True, timeout=200)
    assert time.monotonic() - began < 170
    assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads((results / "about.json").read_text())
    assert about["nvidia-smi"] == "NVIDIA H100 of straw, 580.0" and about["torch"] and about["rehearsal"]
    assert len(about["sources"]) == 16 and about["commit"] == "straw"
    for stage, key in {
        "check": "right",
        "serial": "cuDNN / ours",
        "solver": "depth",
        "trained": "at the start",
        "profile": "summary",
        "kernels": "times",
    }.items():
        found = rows_of(results / f"{stage}.jsonl")
        assert any(key in row for row in found), (stage, found)
        assert all(row["rehearsal"] for row in found)
    trained = rows_of(results / "trained.jsonl")
    assert trained[0]["trained steps"] == 3 and trained[-1]["soonest within"] == 1e-2
    profiled, watched = rows_of(results / "profile.jsonl")
    assert profiled["kernel"] == "gru_sweep" and profiled["duration"] == "1200"
    assert "0 errors" in watched["summary"] and len(watched["kernels"]) == 5
    assert rows_of(results / "tests.jsonl")[-1]["item"] == "pytest"
    files = [path for path in results.rglob("*") if path.is_file()]
    assert len(files) <= 10 and all(path.stat().st_size < 2**24 for path in files)


def test_tools_that_are_missing_or_fail_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import gpu_profile  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(gpu_profile, "FOLDERS", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    items = gpu_profile.items(check=False)
    assert [next(items[name]()) for name in ("profile ncu", "profile racecheck")] == [
        {"left out": "ncu is not installed"},
        {"left out": "compute-sanitizer is not installed"},
    ]
    for name, script in (("ncu", "echo ERR_NVGPUCTRPERM; exit 1"), ("compute-sanitizer", "echo a race; exit 9")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert [*items["profile ncu"]()] == [{"left out": "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)"}]
    [row] = items["profile racecheck"]()
    assert "exit status 9: a race" in row["failed"]
    (tmp_path / "compute-sanitizer").write_text("#!/bin/sh\nwhile true; do :; done\n")
    monkeypatch.setattr(gpu_profile, "SECONDS", 0.5)
    [row] = items["profile memcheck"]()
    assert "no end within" in row["left out"]


def test_no_driver_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "bench/gpu.py"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "no NVIDIA driver (nvidia-smi)" in done.stderr


def test_what_dies_or_hangs_is_a_row_and_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from gpu_pool import Pool, Rows  # pyright: ignore[reportMissingImports]

    worker, rows = tmp_path / "worker.py", Rows(tmp_path / "rows.jsonl")
    worker.write_text(BAD_WORKER)
    ends = time.monotonic() + 30
    pool = Pool("any", dict(os.environ), rows, workers=1, item_seconds=2.0, ends=ends, program=worker)
    pool.run(["one", "dies", "two", "hangs", "three"])
    found = rows_of(rows.path)
    assert [row["item"] for row in found] == ["one", "dies", "dies", "two", "hangs", "three"]
    assert found[1]["half"] == 1
    assert "status 11" in found[2]["failed"] and "last words" in found[2]["failed"]
    assert "no end within its time" in found[4]["failed"]
    assert rows.counts() == {"rows": 6, "failed": 2}


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from gpu_pool import Pool, Rows  # pyright: ignore[reportMissingImports]

    worker, rows = tmp_path / "worker.py", Rows(tmp_path / "rows.jsonl")
    worker.write_text(BAD_WORKER)
    began = time.monotonic()
    pool = Pool("any", dict(os.environ), rows, workers=2, item_seconds=60.0, ends=began + 2, program=worker)
    pool.run(["one", "hangs", "hangs", "hangs", "last"])
    assert time.monotonic() - began < 10
    found = rows_of(rows.path)
    assert [row["item"] for row in found if "cut off" in row] == ["hangs", "hangs"]
    assert found[-1]["names"] == ["hangs", "last"]
    assert rows.counts()["failed"] == 0
