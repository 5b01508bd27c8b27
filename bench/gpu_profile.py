"""The hottest kernels under compute-sanitizer and ncu, as items of `bench/gpu.py`. A tool that is not there is a row.

Each tool runs bench/gpu_hottest.py in a process of its own.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

Item = Callable[[], Iterator[dict[str, Any]]]

PROGRAM = [sys.executable, str(Path(__file__).with_name("gpu_hottest.py"))]
SECONDS = 55.0
FOLDERS = [
    *(str(each) for each in sorted(Path("/usr/local").glob("cuda*/bin"), reverse=True)),
    "/opt/nvidia/nsight-compute",
]
METRICS = {
    "gpu__time_duration.sum": "duration",
    "launch__registers_per_thread": "registers",
    "launch__occupancy_limit_shared_mem": "blocks by shared memory",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps active %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM %",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active": "tensor %",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2 %",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue %",
}
"""What ncu measures, and its name in the rows."""
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


def found(tool: str) -> str | None:
    """Where a tool is, on the path or where CUDA is installed."""
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(FOLDERS))


def ran(command: list[str]) -> tuple[int, str]:
    """A tool's exit status and all that it said; 124 where it was ended for lack of time."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        return 124, output
    return process.returncode, output


def sanitized(check: str) -> Iterator[dict[str, Any]]:
    """What compute-sanitizer finds in the hottest kernels."""
    tool = found("compute-sanitizer")
    if tool is None:
        yield {"left out": "compute-sanitizer is not installed"}
        return
    status, output = ran([tool, "--tool", check, "--print-limit", "20", "--error-exitcode", "9", *PROGRAM, "--small"])
    if status == 124:
        yield {"left out": f"no end within {SECONDS:.0f} s", "output": output[-1000:]}
        return
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", output)
    row = {"summary": summary[-1] if summary else "", "kernels": re.findall(r"^ran (.*)$", output, re.MULTILINE)}
    yield row if status == 0 and row["kernels"] else {**row, "failed": f"exit status {status}: {output[-1500:]}"}


def profiled() -> Iterator[dict[str, Any]]:
    """A row for each launch of the hottest kernels, as ncu sees it."""
    tool = found("ncu")
    if tool is None:
        yield {"left out": "ncu is not installed"}
        return
    options = ["--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(METRICS)]
    names = ["--kernel-name", "regex:gru_|dense_|conv_", "--launch-count", "12"]
    status, output = ran([tool, *options, *names, *PROGRAM])
    rows = list(metrics_of(output))
    yield from rows
    if "ERR_NVGPUCTRPERM" in output:
        yield {"left out": "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)"}
    elif status or not rows:
        yield {"failed": f"exit status {status}: {output[-1500:]}"}


def metrics_of(output: str) -> Iterator[dict[str, Any]]:
    """The launches in ncu's table: the row of names, that of units, then one for each."""
    lines = output.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    for entry in list(csv.DictReader(lines[first:]))[1:]:
        if entry.get("Kernel Name"):
            yield {"kernel": entry["Kernel Name"]} | {name: entry.get(metric) for metric, name in METRICS.items()}


def items(*, check: bool) -> dict[str, Item]:
    """ncu, then every check of compute-sanitizer. Nothing of it is checked beforehand."""
    if check:
        return {}
    return {"profile ncu": profiled, **{f"profile {each}": partial(sanitized, each) for each in SANITIZERS}}
