"""What a compiled kernel executes again and again: the instructions of its innermost loop, counted in machine code."""

import re
from dataclasses import dataclass
from functools import cache

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
_WIDTHS = {"128": 4, "64": 2}  # 128 bytes a cycle: a warp's 4-byte words take one cycle, its 16-byte ones four


@dataclass(frozen=True)
class Mix:
    """Of one pass of a loop, by one warp: instructions issued, of them on the matrix and the special-function unit,
    barriers, and cycles of shared memory."""

    issued: int
    matrix: int
    special: int
    barriers: int
    shared_cycles: int


def mix_of(lines: list[str]) -> Mix:
    """What these lines of machine code hold."""
    names = [found[1] for line in lines if (found := _INSTRUCTION.search(line))]
    kinds = [name.split(".")[0] for name in names]
    return Mix(
        issued=len(names),
        matrix=sum(kind in ("HMMA", "HGMMA", "DMMA", "IMMA") for kind in kinds),
        special=kinds.count("MUFU"),
        barriers=kinds.count("BAR"),
        shared_cycles=sum(_shared_cycles(name) for name in names),
    )


def innermost_loop(code: str) -> Mix:
    """The longest loop without another in it; of a kernel without loops, all of it."""
    lines = code.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    back = [(labels[found[1]], i) for i, line in enumerate(lines) if (found := _BRANCH.search(line))]
    loops = [(first, last) for first, last in back if first < last - 1]
    inner = [loop for loop in loops if not any(loop[0] <= o[0] and o[1] <= loop[1] and o != loop for o in loops)]
    if not inner:
        return mix_of(lines)
    first, last = max(inner, key=lambda loop: loop[1] - loop[0])
    return mix_of(lines[first : last + 1])


@cache
def of_configuration(key: str) -> Mix:
    """The innermost loop of a shipped configuration, by its name in tests/kernels/resources.json; compiles it."""
    from tests.kernels.compiled import configurations, machine_code

    return innermost_loop(machine_code(*configurations()[key]))


def _shared_cycles(name: str) -> int:
    kind, *modifiers = name.split(".")
    if kind == "LDSM":
        return int(next((each for each in modifiers if each.isdigit() and len(each) == 1), "1"))
    if kind in ("LDS", "STS"):
        return max((_WIDTHS.get(each, 1) for each in modifiers), default=1)
    return 0
