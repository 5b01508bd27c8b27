"""LayerParallel: a deep network of equal blocks, propagated by MGRIT in both directions."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from lpgpu.comm import as_communicator
from lpgpu.mgrit import MGRIT, Solver, SolveResult
from lpgpu.nn.alike import check_firsts
from lpgpu.nn.arguments import Arguments
from lpgpu.nn.block_precision import check_block_dtype, surrounding_autocast
from lpgpu.nn.buffers import partitions, sections
from lpgpu.nn.call import Call
from lpgpu.nn.checks import check_arguments, check_call, check_names, check_state, checksum
from lpgpu.nn.exclusively import parameters_of
from lpgpu.nn.frozen_draws import draws_of_call
from lpgpu.nn.layer_index import number_layer
from lpgpu.nn.packing import Packing
from lpgpu.nn.propagation import Propagation, sentinel_for
from lpgpu.nn.propagators.purity import refuse_backward_hooks
from lpgpu.nn.schemes import Form, Scheme, Step, Steps
from lpgpu.nn.shared_layers import SharedLayers
from lpgpu.nn.solver_module import SolveResults
from lpgpu.nn.stacked_call import StackedCall, walked_and_solved
from lpgpu.nn.stacking import draw_seed, layer_structure, layer_weights, stack


class LayerParallel(SharedLayers):
    """u_{k+1} = Φ_k(u_k), k = 0 … N−1, u_0 = x; returns u_N.

    With `form="rhs"` the block is f(u) and Φ_k one step of `scheme` for u′ = f(u) with Δt = Tf/N; with `form="step"`
    the block's forward is (dt, u) and returns the next state; with `form="residual"` it is (u) and returns the next
    state, as the blocks of ResNets and transformers do, and a coarse step over m layers is u + m (block(u) − u). A
    block whose forward has a first argument called t gets there the time t_k = k Δt, a tensor without dimensions.
    Forward and backward are solved by `solver`: with MGRIT
    both are inexact by a controlled amount (`forward_result`, `adjoint_result`), with Serial exact, and on one process
    twice differentiable (`create_graph=True`; an inexact solve refuses it). Günther et al.,
    "Layer-parallel training of deep residual neural networks", SIAM J. Math. Data Sci. 2 (2020).

    Args:
        comm: None, an mpi4py communicator or a process group of torch.distributed, whose ranks share the layers: rank 0
            has the first ones. Every rank makes the same calls: it passes the same x, gets the same y, computes the
            same loss and calls backward; that loss counts once.
        block: a callable without arguments that builds one layer's nn.Module. A layer must be a pure function of its
            state and arguments that keeps the state's shape, dtype and device, and that `torch.vmap` can batch.
        local_num_steps: the layers of this rank, at least 1; they may differ between ranks.
        Tf: the final time, > 0.
        buffer: (a, b): of the N layers the first a and the last b are walked one by one, exactly, by the first and the
            last rank, while the others wait; the solver has the N − a − b between. Residuals are of these only; depth
            and evaluations count all. Parameters and their names are as without.
        block_dtype: torch.bfloat16 or torch.float16: blocks compute as under torch.autocast of that dtype, by plain
            PyTorch; states, residuals and parameters are float32. None: as the autocast around a call says, but that
            blocks with kernels of their own take these, in the parameters' precision.

    Attributes:
        layers: one module like the block, its parameters and buffers stacked, [layers of this rank, ...]. Layer k
            starts from the same weights on any number of ranks.
        num_steps, local_num_steps: N, the layers of all ranks; those of this rank.
        solver, block_dtype: may be assigned between calls.
        forward_result, adjoint_result: the SolveResult of the latest solve of each kind, or None.

    Raises:
        TypeError, ValueError: for arguments that make no network, saying what came and what was expected.
    """

    block_dtype: torch.dtype | None
    forward_result: SolveResult | None = None
    adjoint_result: SolveResult | None = None
    _ends: tuple[int, int]
    _sections: tuple[int, int, int]

    def __init__(
        self,
        comm: Any,
        block: Callable[[], nn.Module],
        local_num_steps: int,
        Tf: float,
        *,
        scheme: Scheme = "euler",
        form: Form = "rhs",
        solver: Solver | None = None,
        buffer: tuple[int, int] = (0, 0),
        block_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        communicator = self._communicator = as_communicator(comm)

        def check() -> None:
            check_arguments(local_num_steps, Tf, scheme, form)
            self.solver = MGRIT() if solver is None else solver
            self._sections = sections(buffer, local_num_steps, communicator)
            self._ends = (buffer[0], buffer[1])
            check_block_dtype(block_dtype)

        facts = {"Tf": Tf, "scheme": scheme, "form": form, "buffer": buffer, "block_dtype": block_dtype}
        communicator.agree(check, lambda: facts | {"solver": self.solver})
        self.local_num_steps = local_num_steps
        self.Tf = float(Tf)
        self.scheme, self.form, self.block_dtype = scheme, form, block_dtype
        blocks, seeds = zip(*communicator.allgather((local_num_steps, draw_seed())), strict=True)
        self.num_steps = sum(blocks)
        self._partition, self._partition_between = partitions(blocks, self.buffer, communicator)
        first = sum(blocks[: communicator.rank])

        def build() -> None:
            self.layers = stack(block, range(first, first + local_num_steps), seeds[0])

        communicator.agree(build, lambda: {"the block": layer_structure(self.layers)})
        self._built = frozenset(name for name, _ in self.layers.named_parameters())
        self._called = False

    @classmethod
    def of_modules(
        cls,
        comm: Any,
        modules: Sequence[nn.Module],
        *,
        Tf: float | None = None,
        form: Form = "residual",
        scheme: Scheme = "euler",
        solver: Solver | None = None,
        buffer: tuple[int, int] = (0, 0),
        block_dtype: torch.dtype | None = None,
    ) -> Self:
        """The network of existing layers, with copies of their weights.

        `modules` are all layers, on every rank, of one structure; each rank takes a run of them. `Tf` defaults to their
        number (Δt = 1), `form` to that of a residual network's blocks. The number that a layer may know itself by
        (`layer_idx`) may differ.

        >>> blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(6)]
        >>> LayerParallel.of_modules(None, blocks, solver=MGRIT(coarsening=2))(torch.randn(1, 5, 8)).shape
        torch.Size([1, 5, 8])

        Raises:
            TypeError, ValueError: for fewer modules than ranks, or layers that are not alike.
        """
        modules = list(modules)
        communicator = as_communicator(comm)
        if len(modules) < communicator.size:
            raise ValueError(
                f"there are {len(modules)} modules for {communicator.size} ranks; expected one each at least"
            )
        starts = [len(modules) * rank // communicator.size for rank in range(communicator.size + 1)]
        check_firsts([modules[start] for start in starts[:-1]])
        first, stop = starts[communicator.rank : communicator.rank + 2]
        own, before = iter(modules[first:stop]), torch.get_rng_state()
        final = float(len(modules)) if Tf is None else Tf
        options: dict[str, Any] = {"scheme": scheme, "form": form, "solver": solver, "buffer": buffer}
        net = cls(comm, lambda: next(own), stop - first, final, **options, block_dtype=block_dtype)
        torch.set_rng_state(before)  # nothing was drawn
        return net

    @property
    def results(self) -> SolveResults:
        """`forward_result` and `adjoint_result`, as every network has them."""
        return SolveResults((self.forward_result,), (self.adjoint_result,))

    @property
    def buffer(self) -> tuple[int, int]:
        """How many layers at both ends are walked one by one; as built."""
        return self._ends

    @property
    def dt(self) -> float:
        """Δt = Tf / N."""
        return self.Tf / self.num_steps

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """u_N for u_0 = `x` [batch, ...]; the same shape.

        The state may be several tensors of one batch, in a tuple, list or dict, which blocks then take and return. A
        block of form "residual" may return a tuple that begins with the next state, if nothing else in it is a tensor;
        the network then returns such a tuple too.

        `args` and `kwargs` reach every block: `block(u, *args, **kwargs)`. Tensors among them (also inside lists,
        tuples and dicts) are the same for all layers, and get gradients; `PerLayer(z)` gives layer k its own z[k].
        Every rank passes the same, and gets the same gradients. What a block draws at random (dropout, noise) is drawn
        once a call for each layer, and takes one number from the global generator: the same seed, the same draws on any
        number of ranks. They differ from those of `to_sequential()`.

        Raises:
            TypeError, ValueError: for an `x` that is no finite, dense tensor of the parameters' dtype and device, a
                block that changes its state's shape, dtype or device, one that uses a tensor that wants a gradient and
                is neither its input nor its parameter, or has backward hooks; arguments on another device; or `layers`
                with parameters that block() did not build, such as those of weight_norm: it belongs inside block().
            NotImplementedError: inside a transform of torch.func, such as vmap.
            DivergenceError: when a solve diverges and `solver.on_divergence` is "raise".
        """
        u_0, arguments, packing = self._checked(x, args, kwargs)
        sentinel = sentinel_for(self._communicator)
        per_layer, shared = self._tensors_of(arguments, sentinel)
        with draws_of_call(self._communicator) as draws:
            call = StackedCall(
                stack=self.layers,
                scheme=self.scheme,
                form=self.form,
                dt=self.dt,
                theta=parameters_of(self.layers),
                per_layer=per_layer,
                shared=shared,
                call=Call(
                    arguments,
                    self._own_layers,
                    draws=draws,
                    packing=packing,
                    block_dtype=self.block_dtype,
                    autocast=surrounding_autocast(),
                ),
                differentiable=torch.is_grad_enabled(),
            )
            y = self._propagated(call, sentinel, u_0)
        return call.call.returned.like(y if packing is None else packing.unpack(y))

    def _checked(
        self, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Arguments, Packing | None]:
        """The state as one tensor, the further arguments, and how the state is packed; refused on all ranks alike."""
        named = parameters_of(self.layers)
        arguments = Arguments.of(args, kwargs)
        checked: list[Any] = []

        def check() -> None:
            check_names(named.keys() - self._built)
            check_call(self.layers, self.form, args, kwargs)
            packing = None if isinstance(x, Tensor) else Packing.of(x, "x")
            checked.extend((packing, x if packing is None else packing.pack(x)))
            check_state(checked[1], tuple(named.values()))
            check_block_dtype(self.block_dtype, checked[1])
            arguments.check(self.num_steps, checked[1])
            if torch.is_grad_enabled():
                refuse_backward_hooks(self.layers)

        wait, self._called = not self._called, True  # on all ranks, whatever a check says
        of_call = {"the arguments": arguments.facts()}
        self._communicator.agree(check, lambda: self._facts(*checked, wait=wait) | of_call)
        packing, u_0 = checked
        return u_0, arguments, packing

    def _propagated(self, call: StackedCall, sentinel: Tensor | None, u: Tensor) -> Tensor:
        """u_N of u_0."""
        first, last = self.buffer
        opening, _, closing = self._sections
        solve = partial(
            Propagation,
            num_steps=self.num_steps - first - last,
            partition=self._partition_between,
            solver=self.solver,
            communicator=self._communicator,
            forward_done=lambda result: setattr(self, "forward_result", result),
            adjoint_done=lambda result: setattr(self, "adjoint_result", result),
            graphs=self.graphs,
            walked=first + last,
            walked_here=opening + closing,
        )
        if not first + last:
            return call.propagate(solve, sentinel, u)
        return walked_and_solved(call, self._sections, self.buffer, solve, self._communicator, sentinel, u, self.graphs)

    def to_sequential(self) -> nn.Sequential:
        """An independent copy as plain PyTorch, one `Step` per layer: for inspection, deployment, and as an oracle.

        What a call has besides x reaches every step. Collective: every rank gets the whole network.
        """
        layers, steps = self._all_layers(), []
        for layer in range(self.num_steps):
            with layer_weights(layers, layer):
                block = copy.deepcopy(layers)
            number_layer(block, layer)
            steps.append(Step(block, self.dt, self.scheme, self.form, layer * self.dt))
        sequential = Steps(*steps)
        for module in (sequential, *steps):
            module.training = self.training  # not .train(): the blocks keep the modes their copies came with
        return sequential

    def _facts(self, packing: Packing | None, x: Tensor, *, wait: bool) -> dict[str, object]:
        """What must be the same on every rank at a call; values on a GPU only with `wait`, as these wait for it."""
        return {
            "x": f"{x.dtype} {tuple(x.shape)}{packing or ''}",
            "solver": self.solver,
            "whether gradients are enabled": torch.is_grad_enabled(),
            "autocast": surrounding_autocast(),
            "block_dtype": self.block_dtype,
            "the values of x": checksum(x) if wait or x.device.type == "cpu" else None,
        }

    def extra_repr(self) -> str:
        step = f"scheme={self.scheme!r}" if self.form == "rhs" else f"form={self.form!r}"
        here = f", of these {self.local_num_steps} here" if self.local_num_steps < self.num_steps else ""
        ends = f", buffer={self.buffer}" if any(self.buffer) else ""
        ends += f", block_dtype={self.block_dtype}" if self.block_dtype else ""
        return f"num_steps={self.num_steps}{here}, Tf={self.Tf}, {step}{ends}, solver={self.solver}"
