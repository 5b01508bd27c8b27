"""The Python of the documentation runs as it is printed, page by page, and every file that a page names is there."""

import json
import re
from pathlib import Path

import pytest
import torch

from lpgpu.cli.app import _parser
from lpgpu.train import RECIPES
from tests import launcher
from tests.additions import ADDITIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXPERIMENTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/experiments/*.md"))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAID = re.compile(r"\n+(?:It )?prints[^`\n]*(?:\n[^`\n]+)*\n\n((?:    .*\n)+)")
NAMED = re.compile(r"(?<![\w/.-])(?:docs|bench|tests|lpgpu|kernels)/[\w/.-]*\w\.(?:md|py|jsonl?|png|svg|cuh?)(?!\w)")
NUMBER = re.compile(r"[\d.]*\d(?:e[+-]\d+)?")
LINK = re.compile(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"")
COMMANDS = re.compile(r"lpgpu (?:train|tune|compare|plot|verify|export|info)\b[^`\n#…]*")
WITH_PYTHON = [str(page) for page in PAGES if PYTHON.search((ROOT / page).read_text(encoding="utf-8"))]


def blocks(page: str) -> list[str]:
    """The blocks of Python of a page, which together are one program."""
    return PYTHON.findall((ROOT / page).read_text(encoding="utf-8"))


def is_for_ranks(block: str) -> bool:
    """Whether it needs several of them."""
    return "mpi4py" in block


def parts(page: str) -> list[tuple[str, str | None]]:
    """The blocks of Python of a page in order, each with what the page says that it prints: "… prints …", indented."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = list(PYTHON.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    said = [SAID.match(text[match.end() : end]) for match, end in zip(found, ends, strict=True)]
    return [(match[1], words and words[1]) for match, words in zip(found, said, strict=True)]


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if not all(map(is_for_ranks, blocks(page)))])
def test_python_of_a_page_runs_and_prints_what_the_page_says(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    printed, known = "", {"__name__": "__page__"}
    for block, said in parts(page):
        if is_for_ranks(block):
            continue
        exec(compile(block, page, "exec"), known)
        came = capsys.readouterr().out
        printed += came
        if said is not None:
            assert words(came) == words(said)
            assert numbers(came) == [expected(number) for number in numbers(said)], f"{came!r} is not {said!r}"
    assert printed.strip()


def numbers(text: str) -> list[float]:
    """All of a text, counts as integers."""
    return [int(each) if each.isdigit() else float(each) for each in NUMBER.findall(text)]


def words(text: str) -> list[str]:
    """All but its numbers."""
    return NUMBER.sub("#", text).split()


def expected(number: float) -> object:
    """What equals it: a count itself, another number what is within a tenth, as rounding differs between machines."""
    return number if isinstance(number, int) else pytest.approx(number, rel=0.1)


def test_pages_say_what_is_printed() -> None:
    """Lest nothing is compared."""
    assert [page for page in ("README.md", "docs/how-it-works.md") if not any(said for _, said in parts(page))] == []


FOR_RANKS = [page for page in WITH_PYTHON if any(map(is_for_ranks, blocks(page)))]


def assert_runs_on_ranks(program: str, name: str, folder: Path) -> None:
    """Fails unless the program runs on four ranks, or on two where it makes no grid of them, and prints something."""
    (folder / "page.py").write_text(program, encoding="utf-8")
    done = launcher.run(name, 4 if "ProcessGrid" in program else 2, folder / "page.py", timeout=120)
    assert done.status == 0 and done.of_ranks[0].strip(), done.everything


@pytest.mark.parametrize("name", launcher.those_that_start("mpiexec"))
@pytest.mark.parametrize("page", FOR_RANKS)
def test_python_of_a_page_runs_on_ranks(page: str, name: str, tmp_path: Path) -> None:
    assert_runs_on_ranks("\n".join(blocks(page)), name, tmp_path)


@pytest.mark.parametrize("name", launcher.those_that_start("forked"))
def test_two_lines_make_it_a_job_of_torchrun(name: str, tmp_path: Path) -> None:
    """Those that docs/running-on-many-gpus.md names."""
    page = "docs/running-on-many-gpus.md"
    lines = re.findall(r"^    (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    imports, world = (
        next(line for line in lines if word in line) for word in ("import torch.dist", "ProcessGrid(dist")
    )
    program = "\n".join(blocks(page)).replace("from mpi4py import MPI", imports)
    program = re.sub(r"^grid = ProcessGrid\(MPI.*$", world, program, flags=re.MULTILINE)
    assert "MPI" not in program
    assert_runs_on_ranks(program, name, tmp_path)


@pytest.mark.parametrize("page", [str(page) for page in [*PAGES, *EXPERIMENTS]])
def test_commands_of_a_page_are_understood(page: str) -> None:
    """Their words, with the page's placeholders; whether they do what the page says is for other tests."""
    for command in COMMANDS.findall((ROOT / page).read_text(encoding="utf-8")):
        words = command.replace("[SUITE]", "").split()[1:]
        placeholders = [word for word in words if word == "|" or word.startswith(("[", "SEED", "CONTROL", "RECIPE"))]
        if placeholders or words in (["train"], ["compare"], ["plot"], ["verify"], ["export"], ["tune"]):
            continue  # says what may stand there, or names the command
        assert _parser().parse(words), command


@pytest.mark.parametrize("page", [str(page) for page in PAGES])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = {name for addition in ADDITIONS.values() for name in addition.files}  # the reader's own
    examples.add("tests/kernels/interpreted/test_my_op.py")
    missing = {name for name in NAMED.findall(text) if not (ROOT / name).exists()} - examples
    assert not missing


@pytest.mark.parametrize("page", [str(page) for page in [*PAGES, *EXPERIMENTS]])
def test_links_of_a_page_lead_to_files(page: str) -> None:
    """Of the checkout, and of nothing outside it. Those of pages, and their headings, Sphinx checks too."""
    links = [md or html for md, html in LINK.findall((ROOT / page).read_text(encoding="utf-8"))]
    files = [(ROOT / page).parent / link.partition("#")[0] for link in links if "://" not in link and link[0] != "#"]
    assert [str(file) for file in files if not file.exists()] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_of_the_command_line_has_every_recipe(recipe: str) -> None:
    assert f"`{recipe}`" in (ROOT / "docs/command-line.md").read_text(encoding="utf-8")


def test_the_table_of_kernels_has_every_kernel() -> None:
    """Those that are compiled in the tests."""
    compiled = json.loads((ROOT / "tests/kernels/resources.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/kernels.md").read_text(encoding="utf-8")
    assert sorted({name for name in (each.split()[0] for each in compiled) if f"`{name}`" not in page}) == []


@pytest.mark.parametrize("program", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_the_page_of_examples_shows_every_program(program: str) -> None:
    assert f"{{literalinclude}} ../examples/{program}\n" in (ROOT / "docs/examples.md").read_text(encoding="utf-8")
