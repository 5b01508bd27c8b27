"""Multigrid reduction in time: the solver, for the forward and the adjoint problem alike.

partition        which rank owns which points
grid             which layers a level has and a sweep visits
hierarchy        the levels, finest first
slices           how long a slice is, and what it is when shifted
propagator       Φ, on many layers at once
states           where the states of a level live
level            what a cycle works on: all of the above for one grid
relaxation       F-, C- and FCF-sweeps
fas              residual, coarse problem, correction
coarse_operator  what a coarse step is: the fine propagator with a longer step, or
picard           Picard iterations over all layers of an interval
linear           the layers' linearisation, solved by a scan
delta            a coarse operator closer to the fine one
cycle            V, F and W
guess            where the first cycle starts from
solve            cycles until done
convergence      when that is, and what went wrong
exchange         what other ranks hear of it
halo             the layers beyond a rank's own that its Picard steps go through
options          the user's choices
result           what was done, counted
counting         the same of a solver that computes nothing
"""

from lpgpu.mgrit.convergence import DivergenceError, DivergenceWarning
from lpgpu.mgrit.delta import Delta
from lpgpu.mgrit.grid import Grid, Window
from lpgpu.mgrit.hierarchy import Hierarchy
from lpgpu.mgrit.options import MGRIT, Parareal, Serial, Solver
from lpgpu.mgrit.partition import Partition
from lpgpu.mgrit.propagator import Propagator
from lpgpu.mgrit.result import SolveResult
from lpgpu.mgrit.solve import solve
from lpgpu.mgrit.states import AllPoints, CPointsOnly, States

__all__ = [
    "MGRIT",
    "AllPoints",
    "CPointsOnly",
    "Delta",
    "DivergenceError",
    "DivergenceWarning",
    "Grid",
    "Hierarchy",
    "Parareal",
    "Partition",
    "Propagator",
    "Serial",
    "SolveResult",
    "Solver",
    "States",
    "Window",
    "solve",
]
