"""What can go wrong that is not a bug. The command line prints these as one line, without a traceback."""


class InputError(ValueError):
    """The user asked for something impossible: the message states what came, what was expected and the cure."""


class TrainingDivergedError(ArithmeticError):
    """The loss is no longer a finite number; nothing that was trained after that is kept."""


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended training after a batch, with a checkpoint.

    Attributes:
        signal: its number; 128 more is the exit code that shells and batch systems know.
    """

    def __init__(self, number: int):
        super().__init__()
        self.signal = number
