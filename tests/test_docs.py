"""The Python of the documentation runs as it is printed, page by page, and every file that a page names is there."""

import re
from pathlib import Path

import pytest
import torch

from lpgpu.cli.app import _parser
from tests import mpi_launcher

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXPERIMENTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/experiments/*.md"))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?<![\w/.-])(?:docs|bench|tests|lpgpu|kernels)/[\w/.-]*\w\.(?:md|py|json|png)")
COMMANDS = re.compile(r"lpgpu (?:train|compare|plot|info)\b[^`\n#…]*")
WITH_PYTHON = [str(page) for page in PAGES if PYTHON.search((ROOT / page).read_text(encoding="utf-8"))]


def blocks(page: str) -> list[str]:
    """The blocks of Python of a page, which together are one program."""
    return PYTHON.findall((ROOT / page).read_text(encoding="utf-8"))


def is_for_ranks(block: str) -> bool:
    """Whether it needs several of them."""
    return "mpi4py" in block


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if not all(map(is_for_ranks, blocks(page)))])
def test_python_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    program = "\n".join(block for block in blocks(page) if not is_for_ranks(block))
    exec(compile(program, page, "exec"), {"__name__": "__page__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.skipif(bool(mpi_launcher.why_not()), reason=mpi_launcher.why_not() or "can be run")
@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if any(map(is_for_ranks, blocks(page)))])
def test_python_of_a_page_runs_on_ranks(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(blocks(page)), encoding="utf-8")
    done = mpi_launcher.run(4 if "ProcessGrid" in "".join(blocks(page)) else 2, tmp_path / "page.py", timeout=120)
    assert done.status == 0 and done.of_ranks[0].strip(), done.everything


@pytest.mark.parametrize("page", [str(page) for page in [*PAGES, *EXPERIMENTS]])
def test_commands_of_a_page_are_understood(page: str) -> None:
    """Their words, with the page's placeholders; whether they do what the page says is for other tests."""
    for command in COMMANDS.findall((ROOT / page).read_text(encoding="utf-8")):
        words = command.replace("[SUITE]", "").split()[1:]
        placeholders = [word for word in words if word == "|" or word.startswith(("[", "SEED", "CONTROL", "RECIPE"))]
        if placeholders or words in (["train"], ["compare"], ["plot"]):
            continue  # says what may stand there, or names the command
        assert _parser().parse(words), command


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
