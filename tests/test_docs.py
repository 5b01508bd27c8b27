"""The Python of the documentation runs as it is printed, page by page, and every file that a page names is there."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?<![\w/.-])(?:docs|bench|tests|lpgpu|kernels)/[\w/.-]*\w\.(?:md|py|json|png)")
RUN = ["README.md", "docs/training.md"]  # the blocks of the other pages are parts of programs


def pieces(page: str) -> str:
    """All Python of a page as one program, less what needs several ranks."""
    blocks = PYTHON.findall((ROOT / page).read_text(encoding="utf-8"))
    return "\n".join(block for block in blocks if "mpi4py" not in block)


@pytest.mark.parametrize("page", RUN)
def test_python_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    program = pieces(page)
    assert program
    exec(compile(program, page, "exec"), {"__name__": "__page__"})
    assert capsys.readouterr().out.strip()


def test_the_first_lines_print_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = PYTHON.search(text)
    assert block is not None
    exec(compile(block.group(1), "README.md", "exec"), {})
    said = [line.strip() for line in text[block.end() :].splitlines() if line.startswith("    ")][:2]
    number = re.compile(r"[\d.]+(?:e[+-]\d+)?")
    came = [float(n) for n in number.findall(capsys.readouterr().out)]
    assert came == pytest.approx([float(n) for n in number.findall(" ".join(said))], rel=0.1)


@pytest.mark.parametrize("page", [str(page) for page in PAGES])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = {"lpgpu/nn/propagators/my.py", "tests/kernels/interpreted/test_my_op.py"}  # the reader's own
    missing = {name for name in NAMED.findall(text) if not (ROOT / name).exists()} - examples
    assert not missing
