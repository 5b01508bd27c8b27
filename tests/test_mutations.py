"""The tests notice deliberate faults; and a fault whose text is gone is noticed too."""

from pathlib import Path

import pytest

from tests import mutations


@pytest.mark.timeout(240)
def test_every_fault_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    status = mutations.main()
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", mutations.FAULTS)
def test_a_fault_changes_its_text_once(name: str) -> None:
    fault = mutations.FAULTS[name]
    assert (mutations.ROOT / fault.file).read_text().count(fault.right) == 1


def test_a_fault_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "solver.py").write_text("r = u - phi\n")
    with pytest.raises(LookupError, match="no longer contains"):
        mutations.Fault("solver.py", "r = phi - u", "r = u - phi").plant(tmp_path)
