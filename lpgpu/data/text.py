"""Text by characters: a file of the user's, or Python's own documentation, which ships with every interpreter."""

from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor

from lpgpu.data.dataset import Dataset
from lpgpu.data.errors import DataError

_UNKNOWN = "\ufffd"


def load_text(path: Path | None = None, *, context: int, characters: int = 0) -> Dataset:
    """Windows of `context` characters, int64 `[n, context]`, with the next character of each as labels `[n, context]`.

    The first nine tenths of the text are for training, the last for testing; windows do not overlap. Classes are the
    characters of the training text, and one for all others.

    Args:
        path: a text file in UTF-8; None: the help texts of this Python's `pydoc`, some 700 000 characters.
        characters: take so many only, from the beginning; 0: all.

    Raises:
        DataError: when the file cannot be read as text, or is shorter than twenty windows.
    """
    text = _read(path)
    text = text[: characters or None]
    if len(text) < 20 * (context + 1):
        raise DataError(f"the text has {len(text)} characters; expected at least {20 * (context + 1)}, twenty windows")
    cut = len(text) * 9 // 10
    alphabet = {character: i for i, character in enumerate([_UNKNOWN, *sorted(set(text[:cut]) - {_UNKNOWN})])}
    (train_inputs, train_labels), (test_inputs, test_labels) = (
        _windows(part, alphabet, context) for part in (text[:cut], text[cut:])
    )
    return Dataset(
        train_inputs=train_inputs,
        train_labels=train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        classes=len(alphabet),
    )


def _read(path: Path | None) -> str:
    if path is None:
        return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from error


def _windows(text: str, alphabet: dict[str, int], context: int) -> tuple[Tensor, Tensor]:
    codes = torch.tensor([alphabet.get(character, 0) for character in text])
    count = (len(codes) - 1) // context
    inputs, labels = codes[: count * context], codes[1 : count * context + 1]
    return inputs.view(count, context), labels.view(count, context)
