"""What figures were taken on: GPU, clocks, driver, versions, and which sources. Standard library only; never raises."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VERSIONS = """
import importlib, json, sys
found = {"python": sys.version.split()[0]}
for name in ("torch", "triton", "cupy", "numpy", "pytest"):
    try:
        found[name] = importlib.import_module(name).__version__
    except Exception as error:
        found[name] = repr(error)[:200]
try:
    import torch
    found["cuda"] = str(torch.version.cuda)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["arch"] = list(torch.cuda.get_device_capability())
        found["cudnn"] = torch.backends.cudnn.version()
        found["multiprocessors"] = torch.cuda.get_device_properties(0).multi_processor_count
        found["memory"] = torch.cuda.get_device_properties(0).total_memory
except Exception as error:
    found["torch failed"] = repr(error)[:500]
print(json.dumps(found))
"""


def about(env: dict[str, str], *, rehearsal: bool) -> dict[str, object]:
    """As much of it as can be found out within a minute."""
    query = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"
    versions = output([sys.executable, "-c", _VERSIONS], env)
    return {
        "rehearsal": rehearsal,
        "nvidia-smi": output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], env),
        "queried": query,
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "commit": commit(),
        "sources": sources(),
        **(json.loads(versions) if versions.startswith("{") else {"versions": versions}),
    }


def commit() -> str:
    """The commit, from the variable LPGPU_COMMIT where that is set, else from git or its files."""
    if given := os.environ.get("LPGPU_COMMIT"):
        return given
    if found := output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], dict(os.environ)):
        return found
    try:
        head = (ROOT / ".git" / "HEAD").read_text().strip()
        return (ROOT / ".git" / head[5:]).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return "unknown"


def sources() -> str:
    """A digest of the files that are measured and that measure: it tells trees without a commit apart."""
    digest = hashlib.sha256()
    for folder in ("kernels", "lpgpu", "bench"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def output(command: list[str], env: dict[str, str]) -> str:
    """What it prints; empty where it cannot be run, fails or takes a minute."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
