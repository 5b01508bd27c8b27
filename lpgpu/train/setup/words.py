"""Numbers in sentences."""


def counted(count: int, noun: str) -> str:
    """How many there are of what `noun` names.

    >>> counted(1, "epoch"), counted(2, "epoch")
    ('1 epoch', '2 epochs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
