"""The fields of `MGRIT` as options of a run: what the solver learns, the command line offers."""

import dataclasses
import re
from typing import TYPE_CHECKING, get_type_hints

from lpgpu import MGRIT
from lpgpu.train.setup.option_types import option


def documented(cls: type) -> dict[str, str]:
    """What the section "Attributes" of a class's docstring says of each attribute, without line breaks.

    >>> documented(MGRIT)["chunk"][:28]
    'how many intervals are swept'
    """
    section = (cls.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = {}
    for entry in re.split(r"^ {8}(?=\w)", section, flags=re.MULTILINE):
        names, _, text = entry.partition(": ")
        found |= {name.strip(): " ".join(text.split()).removesuffix(".") for name in names.split(",")}
    return found


if TYPE_CHECKING:  # a checker of types does not see fields made at run time; these are MGRIT's
    MGRITOptions = MGRIT
else:
    _hints, _help = get_type_hints(MGRIT), documented(MGRIT)
    MGRITOptions = dataclasses.make_dataclass(
        "MGRITOptions",
        [(f.name, _hints[f.name], option(f.default, _help.get(f.name, ""))) for f in dataclasses.fields(MGRIT)],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "The solver, MGRIT.", "__module__": __name__},
    )

MGRIT_FIELDS = tuple(field.name for field in dataclasses.fields(MGRIT))
