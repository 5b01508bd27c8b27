"""Standard streams that are closed, or that cannot hold all letters."""

import io
import os
import sys

_STREAMS = (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"))


def mend_streams() -> None:
    """Open the null device for what is closed (`2>&-`); let an ASCII terminal show what it lacks as escapes.

    A file that is opened next would else get the number of the closed stream, and all that is written there.
    """
    for name, descriptor, mode in _STREAMS:
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
            try:
                os.fstat(descriptor)
            except OSError:
                os.dup2(stream.fileno(), descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
