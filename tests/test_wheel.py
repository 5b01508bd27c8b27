"""Wheel and sdist: built without the network and without nvcc, installed into an empty environment, and used there.

Costs about 15 s of one core. With nvcc a build takes minutes: what is in that wheel was looked at by hand.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SMOKE = """
import sys, pathlib, torch, lpgpu
assert pathlib.Path(lpgpu.__file__).is_relative_to(sys.prefix), lpgpu.__file__
from lpgpu.nn import ConvBlock
net = lpgpu.LayerParallel(None, lambda: ConvBlock(2), 16, Tf=1.0)
net(torch.randn(3, 2, 4, 4)).square().sum().backward()
gru = lpgpu.GRU(2, 4)
gru(torch.randn(32, 3, 2))[0].sum().backward()
assert all(theta.grad is not None for part in (net, gru) for theta in part.parameters())
from lpgpu.cli import main
assert main(["train", "peaks", "--epochs", "1", "--layers", "4", "--run-dir", "peaks"]) == 0
from lpgpu.kernels import registry
print(lpgpu.__version__, *registry.packages())
"""


def why_not() -> str:
    """What is missing for a build without the network."""
    if importlib.util.find_spec("scikit_build_core") is None:
        return "needs scikit-build-core: pip install scikit-build-core"
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool, path=path_of_tools()) is None]
    return f"needs {' and '.join(missing)}: pip install {' '.join(missing)}" if missing else ""


def path_of_tools() -> str:
    """Where this environment's programs are, then all others."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can be built")


def run(*command: object, cwd: Path) -> str:
    """What the command prints; a failure shows all of it."""
    environment = {**os.environ, "PATH": path_of_tools(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}
    for name in ("PYTHONPATH", "LPGPU_CUBINS"):
        environment.pop(name, None)
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes a wheel, in a folder of its own: a build writes nothing into the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.cubin")
    for name in ("lpgpu", "kernels"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    return folder


def build_wheel(of: Path, folder: Path) -> Path:
    """The wheel of a source tree or an sdist, without cubins, where an nvcc is there as well."""
    words = ["--no-deps", "--no-build-isolation", "--no-index", "-C", "cmake.define.LPGPU_NVCC=OFF"]
    run(sys.executable, "-m", "pip", "wheel", "-q", *words, "-w", folder, of, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    """Its files."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_has_all_files_and_says_that_it_has_no_cubins(wheel: Path) -> None:
    files = contents(wheel)
    suffixes = (".py", ".cu", ".cuh", ".hpp")
    of_folders = {
        f"{prefix}{path.relative_to(ROOT / folder)}"
        for folder, prefix in (("lpgpu", "lpgpu/"), ("kernels", "lpgpu/kernels/"))
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and not path.relative_to(ROOT).is_relative_to("lpgpu/kernels")
    }
    assert of_folders <= files.keys()
    assert not [name for name in files if name.endswith((".cubin", ".pyc")) or not name.startswith("lpgpu/")]
    assert files["lpgpu/kernels/cuda/cubins.txt"] == b"switched off by LPGPU_NVCC=OFF when lpgpu was built"


def test_a_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """torch and what else lpgpu needs are lent by this environment, lpgpu itself is the wheel's."""
    home = tmp_path / "empty"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path
    )
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "lent.pth").write_text("\n".join(lent))  # behind the wheel; what is editable there is not seen
    version, *operations = run(python, "-I", "-c", SMOKE, cwd=tmp_path).splitlines()[-1].split()
    assert (tmp_path / "peaks" / "curves.png").exists()
    assert version == "0.1.0" and {"implicit_gru", "dense_step", "conv_step", "fas"} <= set(operations)
    (cubins,) = (line for line in run(home / "bin" / "lpgpu", "info", cwd=tmp_path).splitlines() if "cubins" in line)
    assert cubins.split(maxsplit=1)[1] == "none (switched off by LPGPU_NVCC=OFF when lpgpu was built)"


def test_an_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    backend = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    sdist = tmp_path / run(sys.executable, "-c", backend, tmp_path, cwd=source).split()[-1]
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert any(name.endswith("kernels/cuda/march.cuh") for name in names), names
    (tmp_path / "again").mkdir()
    assert contents(build_wheel(sdist, tmp_path / "again")) == contents(wheel)
