"""argparse as this command line uses it: suggestions instead of lists, and one voice under mpiexec."""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from lpgpu.comm.launcher import launched_rank

TURN = 3.0  # seconds that a rank leaves to rank 0, which most often fails likewise, to say it for all


class Parser(argparse.ArgumentParser):
    """Errors point to the help of the command they are about; abbreviated options, whose meaning changes, are refused.

    Under mpiexec, where all ranks read the same words, the first one speaks.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, allow_abbrev=False)

    def parse(self, words: Sequence[str] | None) -> argparse.Namespace:
        """Of this process's words, or of these. Exits with code 2, and one line, where they make no command."""
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            parser = getattr(arguments, "parser", self)
            options = [option for action in parser._actions for option in action.option_strings]
            meant = suggestion(unknown[0].partition("=")[0], options)
            parser.error(f"there is no option or argument {unknown[0]}{meant}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """See argparse."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """See argparse."""
        if status:
            await_turn()
        super().exit(status, message)

    def _print_message(self, message: str, file: Any = None) -> None:
        if not launched_rank():
            super()._print_message(message, file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            meant, expected = suggestion(str(value), action.choices), ", ".join(map(repr, action.choices))
            raise argparse.ArgumentError(action, f"there is no {value!r}{meant}; expected one of {expected}")


def await_turn() -> None:
    """On ranks other than 0, wait: it ends them."""
    if launched_rank():
        sys.stdout.flush()
        time.sleep(TURN)


def suggestion(word: str, known: Iterable[str]) -> str:
    """ ", did you mean …?" with what is like `word`, or nothing.

    >>> suggestion("--epoch", ["--epochs", "--seed"])
    ' (did you mean --epochs?)'
    """
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
