"""Everything that one GPU can tell in a few minutes: is it right, and how fast. It cannot fail to measure.

    python bench/gpu.py [--minutes 8] [--results DIR] [--workers 16] [--only EXPRESSION] [--rehearse]

Nothing is installed or built: python3, torch and triton are enough, and this process imports none of them. Work is done
by worker processes (bench/gpu_worker.py), an item at a time; a worker that fails, dies or hangs costs its item a row
that says so, and is replaced. Stages, the most valuable first:

    check    every item once, in `--workers` processes side by side, against the reference: this compiles all kernels
    trained  GRUs trained on the device for some hundred steps: gradient errors and times of solvers on such weights
    serial   our serial GRU against torch.nn.GRU (cuDNN), by kernels in CUDA C++ where they are the default, and without
    cuda     the kernels in CUDA C++, every launch plan; needs nvcc and CuPy as well
    solver   forward + backward by MGRIT against cuDNN and against PyTorch's layers in a CUDA graph
    profile  the hottest kernels under compute-sanitizer and ncu, where these are installed
    kernels  each fused kernel, in percent of the machine's limit
    tests    pytest -m gpu, in what time is left

Each row is one line of JSON in DIR/STAGE.jsonl, written as soon as it is there; DIR/about.json says what it was
measured on. `--rehearse` runs the same program on a CPU, kernels in Triton's interpreter: it measures nothing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_about import about
from gpu_pool import Pool, Rows

ROOT = Path(__file__).resolve().parent.parent
SHARES = {
    "check": 0.25,
    "trained": 0.15,
    "serial": 0.3,
    "cuda": 0.15,
    "solver": 0.5,
    "profile": 0.6,
    "kernels": 0.5,
    "tests": 1.0,
}
"""Of the time that is left when a stage begins."""
SECONDS = {
    "check": 90.0,
    "trained": 40.0,
    "serial": 30.0,
    "cuda": 60.0,
    "solver": 45.0,
    "profile": 60.0,
    "kernels": 30.0,
}
"""That one item may take."""


def environment(rehearse: bool) -> dict[str, str]:
    """For workers: this checkout first, no bytecode written, one thread where many work side by side."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"LPGPU_REHEARSE": "1", "TRITON_INTERPRET": "1"} if rehearse else {}
    own["LPGPU_CUBINS"] = os.environ.get("LPGPU_CUBINS", str(ROOT / "build" / "cubins"))  # what the first check builds
    if not os.access(Path.home(), os.W_OK):
        own["TRITON_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"lpgpu-triton-{os.getuid()}")
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | own


def listed(env: dict[str, str], seconds: float) -> tuple[dict[str, list[str]], str]:
    """The names of each stage's items, in order, and where they cannot be listed why not."""
    command = [sys.executable, str(ROOT / "bench" / "gpu_worker.py"), "--list"]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds)
        return json.loads(done.stdout), ""
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {}, f"{error!r}"[-1000:]


def run_tests(env: dict[str, str], rows: Rows, seconds: float) -> None:
    """pytest -m gpu without the plugins and options of pyproject.toml; a row a test, by bench/gpu_rows.py."""
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "--import-mode",
        "importlib", "-p", "no:cacheprovider", "-p", "gpu_rows", "-W", "ignore::pytest.PytestUnknownMarkWarning",
        str(ROOT / "tests" / "kernels" / "fused"),
        str(ROOT / "tests" / "nn" / "test_on_a_gpu.py"),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), str(ROOT / "bench")])
    env = env | {"LPGPU_ROWS": str(rows.path), "PYTHONPATH": os.pathsep.join([path, env["PYTHONPATH"]])}
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        output += f"\nended after {seconds:.0f} s"
    rows.write({"item": "pytest", "returned": process.returncode, "output": output[-4000:]})


def run(arguments: argparse.Namespace, results: Path, deadline: float) -> dict[str, dict[str, int]]:
    """All stages, each within its share of the time; how many rows of each came and how many say what failed."""
    env = environment(arguments.rehearse)
    facts = about(env, rehearsal=arguments.rehearse)
    (results / "about.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts), flush=True)
    names, unlisted = listed(env, max(1.0, deadline - time.monotonic()))
    counts: dict[str, dict[str, int]] = {}
    for stage, share in SHARES.items():
        began = time.monotonic()
        ends = began + share * (deadline - began)
        rows = Rows(results / f"{stage}.jsonl", rehearsal=arguments.rehearse)
        if stage == "tests" and arguments.only:
            rows.write({"item": "pytest", "left out": "some items were asked for"})
        elif stage == "tests":
            run_tests(env, rows, max(1.0, ends - began))
        else:
            if unlisted:
                rows.write({"item": "the list of items", "failed": unlisted})
            chosen = [name for name in names.get(stage, []) if re.search(arguments.only, name)]
            workers = arguments.workers if stage == "check" else 1
            Pool(stage, env, rows, workers=workers, item_seconds=SECONDS[stage], ends=ends).run(chosen)
        counts[stage] = rows.counts()
        print(f"{stage}: {counts[stage]} in {time.monotonic() - began:.0f} s", flush=True)
    return counts


def refusal(rehearse: bool) -> str | None:
    """Why nothing can be measured here, or None."""
    if rehearse:
        return None
    rest = "Nothing was run; make test runs all that needs no GPU."
    if shutil.which("nvidia-smi") is None:
        return f"make gpu: this machine has no NVIDIA driver (nvidia-smi). {rest}"
    found = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    try:
        done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return f"make gpu: PyTorch took more than two minutes to look for a CUDA GPU. {rest}"
    if done.returncode == 0:
        return None
    return f"make gpu: PyTorch finds no CUDA GPU here. {rest}\n{done.stderr[-1000:]}".rstrip()


def options() -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description="what one GPU can tell in a few minutes")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all stages may take [%(default)s]")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results" / "gpu", help="[%(default)s]")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1), help="that check [%(default)s]")
    parser.add_argument(
        "--only", default=os.environ.get("LPGPU_ONLY", ""), help="items whose names match this expression [all]"
    )
    parser.add_argument("--rehearse", action="store_true", help="run on a CPU; measures nothing")
    arguments = parser.parse_args()
    arguments.rehearse = arguments.rehearse or os.environ.get("LPGPU_REHEARSE") == "1"
    if not arguments.minutes > 0 or arguments.workers < 1:
        parser.error("--minutes and --workers must be positive")
    return arguments


def main() -> None:
    """Run the stages; the exit status says whether anything failed."""
    arguments = options()
    deadline = time.monotonic() + 60 * arguments.minutes
    if reason := refusal(arguments.rehearse):
        sys.exit(reason)
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    counts = run(arguments, results, deadline)
    summary: dict[str, Any] = {"counts": counts, "results": str(results)}
    print(json.dumps(summary))
    if any(count["failed"] for count in counts.values()):
        sys.exit(f"some items failed; the rows in {results} say which and why")


if __name__ == "__main__":
    main()
