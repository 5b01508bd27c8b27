"""The documentation is built as a site, without a warning, and has every page and every public name."""

import importlib
import importlib.util
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from lpgpu.kernels import registry

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["lpgpu", "lpgpu.nn", "lpgpu.train", *(f"lpgpu.kernels.{name}" for name in registry.packages())]
NEEDED = ("sphinx", "myst_parser", "furo")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install lpgpu[docs]")


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


def test_every_public_name_is_described(site: Path) -> None:
    there = described(site)
    named = {f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__}
    again = {f"lpgpu.nn.{name}" for name in importlib.import_module("lpgpu").__all__}  # described as lpgpu's
    assert sorted(named - again - there) == []


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in ROOT.glob("docs/**/*.md")}
    assert sorted({f"page:{page}" for page in pages} - described(site)) == []
    assert all((site / f"{page}.html").exists() for page in pages)
