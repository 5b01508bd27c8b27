"""What every propagated module has: a solver that may be exchanged."""

from lpgpu.mgrit import MGRIT, Serial, Solver


class Solved:
    """A module with a solver, checked when it is assigned."""

    @property
    def solver(self) -> Solver:
        """How to propagate: MGRIT(...), Parareal(...) or Serial(); may be assigned between calls.

        Raises:
            TypeError: when assigned anything else.
        """
        return self._solver

    @solver.setter
    def solver(self, solver: Solver) -> None:
        if not isinstance(solver, MGRIT | Serial):
            raise TypeError(f"solver is {solver!r}; expected an MGRIT(...), Parareal(...) or Serial()")
        self._solver = solver
