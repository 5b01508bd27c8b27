"""What can be wrong with the data of a user."""


class DataError(ValueError):
    """Data are absent, damaged or not the right ones: the message states what came, what was expected and the cure."""
