"""The documentation is built as a site without a warning, has every page and public name; its drawings are drawn."""

import importlib
import importlib.util
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from lpgpu import MGRIT, LayerParallel
from lpgpu.kernels import registry
from lpgpu.nn import DenseBlock

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["lpgpu", "lpgpu.nn", "lpgpu.train", *(f"lpgpu.kernels.{name}" for name in registry.packages())]
NEEDED = ("sphinx", "myst_parser", "furo")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

needs_sphinx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install lpgpu[docs]")
DRAWINGS = ROOT / "docs" / "drawings"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built anew, as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, *command, "docs", str(folder / "html")], cwd=ROOT, text=True, capture_output=True, timeout=300
    )
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return folder / "html"


def described(site: Path) -> set[str]:
    """The names that the site's inventory has: of Python's objects and of pages, such as "page:models"."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    words = [line.split(" ") for line in lines]
    return {f"page:{name}" if kind == "std:doc" else name for name, kind, *_ in words}


@needs_sphinx
def test_every_public_name_is_described(site: Path) -> None:
    there = described(site)
    named = {f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__}
    again = {f"lpgpu.nn.{name}" for name in importlib.import_module("lpgpu").__all__}  # described as lpgpu's
    assert sorted(named - again - there) == []


@needs_sphinx
def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in ROOT.glob("docs/**/*.md")}
    assert sorted({f"page:{page}" for page in pages} - described(site)) == []
    assert all((site / f"{page}.html").exists() for page in pages)


def test_every_drawing_is_drawn_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(DRAWINGS / "draw.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in DRAWINGS.glob("*.svg")}


def test_the_first_drawing_has_as_many_steps_as_the_solver() -> None:
    count = "import method; print(len(method.mgrit_schedule(layers=64, m=8)))"
    drawn = subprocess.run([sys.executable, "-Bc", count], cwd=DRAWINGS, text=True, capture_output=True, timeout=120)
    solver = MGRIT(levels=2, coarsening=8, relaxation="F", iterations=1)
    net = LayerParallel(None, lambda: DenseBlock(4), 64, 1.0, solver=solver)
    net(torch.ones(2, 4))
    assert net.forward_result is not None
    assert drawn.stdout.strip() == str(net.forward_result.sequential_depth), drawn
