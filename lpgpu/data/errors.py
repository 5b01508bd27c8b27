"""What can be wrong with the data of a user."""


class DataError(ValueError):
    """Data are absent, damaged or not the right ones: the message states what came, what was expected and the cure."""


def array_of(error: KeyError) -> str:
    """The name of the array that NumPy's archive lacks, from what it says."""
    return str(error.args[0]).split()[0]
