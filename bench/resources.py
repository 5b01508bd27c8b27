"""What the compiled kernel of a case takes of a GPU, from the checked-in table of the tests."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from kernel_case import NAMES, Case

TABLE = Path(__file__).parent.parent / "tests" / "kernels" / "resources.json"


def resources_of(case: Case, arch: int) -> dict[str, int]:
    """Registers, shared memory and warps of the configuration in the table that is nearest to the case's; `key_of`."""
    of_key = _table()[key_of(case, arch)]
    return {name: of_key[name] for name in ("registers", "shared", "num_warps")}


def key_of(case: Case, arch: int) -> str:
    """The name in the table of the configuration that is nearest in width to the case's.

    The table holds the widths that matter; another width takes those of the next wider one, or of the widest.

    Raises:
        KeyError: when the table has no configuration of that kernel and dtype.
    """
    of_kernel = re.compile(rf"{case.kernel} .*\b{NAMES[case.dtype]}\b.* sm_{arch}$")
    found = {key: each for key, each in _table().items() if of_kernel.match(key)}
    if not found:
        raise KeyError(f"{TABLE.name} has no {case.kernel} in {NAMES[case.dtype]} for sm_{arch}")
    return min(found, key=lambda key: (_width(key) < case.width, abs(_width(key) - case.width), len(key)))


def _width(key: str) -> int:
    width = re.search(r"[HC]=(\d+)", key)
    return int(width[1]) if width else 0


@cache
def _table() -> dict[str, dict[str, Any]]:
    return json.loads(TABLE.read_text())
