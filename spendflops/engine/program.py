"""A Program is a pure function with known shapes: the only thing that can spend FLOPs.

``plan`` prints programs, a budget solves for calls, the loop runs them, the ledger appends them. A plan is a ledger
that has not happened yet.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax

from spendflops.accounts.flops import Cost, count_hlo, count_jaxpr, hlo_text
from spendflops.contracts import errors
from spendflops.engine.liveness import peak_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device: arguments, results, temporaries, and what arguments and results share."""

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @property
    def peak(self) -> int:
        """An upper estimate: everything that the program holds at once."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


class Compilations:
    """Executables by the hash of what was compiled, and how many were really compiled in this process."""

    def __init__(self) -> None:
        self.executables: dict[str, jax.stages.Compiled] = {}
        self.count = 0

    def get(self, digest: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """The executable of ``lowered``; programs of the same digest share one."""
        if digest not in self.executables:
            self.count += 1
            self.executables[digest] = _compile(lowered)
        return self.executables[digest]


COMPILATIONS = Compilations()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A pure function with known shapes.

    Attributes:
        name: ``"pretrain/train"``, ``"ridge/bank"``.
        fn: The function; phases are named scopes inside it.
        args: Pytree of ``jax.ShapeDtypeStruct``, with shardings where there is more than one device.
        examples: Examples a call.
        donate: Positions of the arguments whose memory may be reused.
        places: Shardings of the results, a tree or the beginning of one; None leaves them to the compiler.
        devices: Devices that run it.
        closed_form: Counter A: FLOPs of one call by a formula, where there is one.
        family: Equal for programs that differ in numbers of their optimiser at most, and so in no FLOP; None for none.
        target: What it is compiled for, where that is not the machine that it would run on (``engine/target.py``).
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    examples: int
    donate: tuple[int, ...] = ()
    places: Any = None
    devices: int = 1
    closed_form: int | None = None
    family: Any = None
    target: str = ""

    @functools.cached_property
    def _traced(self) -> Any:
        return jax.jit(self.fn, donate_argnums=self.donate, out_shardings=self.places).trace(*self.args)

    @property
    def outputs(self) -> Any:
        """Shapes and dtypes of the results."""
        return self._traced.out_info

    @functools.cached_property
    def model_cost(self) -> Cost:
        """Counter B: model FLOPs of one call, exact, the same on every machine, known before compiling.

        What is computed again to save memory is not among them: a budget buys the same steps with and without.
        """
        return self.with_recomputation.without_recomputation()

    @functools.cached_property
    def with_recomputation(self) -> Cost:
        """Model FLOPs of one call, what is computed again to save memory among them."""
        return count_jaxpr(self._traced.jaxpr)

    @functools.cached_property
    def held(self) -> int:
        """The most bytes that a call holds at once, all devices together: a bound, known before compiling.

        A compiler fuses and reorders, and needs less.
        """
        sizes = [len(jax.tree.leaves(arg)) for arg in self.args]
        donated = [sum(sizes[:place]) + k for place in self.donate for k in range(sizes[place])]
        return peak_bytes(self._traced.jaxpr, reusable=donated)

    @functools.cached_property
    def hardware_cost(self) -> Cost:
        """Counter C: FLOPs in the optimised program of one call, over all devices. Compiles."""
        try:
            return count_hlo(hlo_text(self.compile()), devices=self.devices)
        except (ValueError, LookupError) as error:
            # A counter never stops training: the row is marked and says why.
            return Cost(counter="hlo/1", unknown=(f"unreadable program text: {error}",))

    def cost(self, *, hardware: bool = False) -> Cost:
        """FLOPs of one call by phase and dtype."""
        return self.hardware_cost if hardware else self.model_cost

    def compile(self) -> jax.stages.Compiled:
        """The executable; compiled once a process, and kept on disk by JAX's compilation cache where that is set.

        Raises:
            errors.OutOfMemoryError: The program does not fit on the device.
        """
        return COMPILATIONS.get(self.digest, self._lowered)

    @functools.cached_property
    def digest(self) -> str:
        """Hex SHA-256 of what is compiled: equal for programs of one target, text and trees of arguments."""
        # Arguments that a program does not read are not in its text, but an executable still checks their trees.
        called = f"{self._lowered.in_tree} {self._lowered.in_avals} {self._lowered.as_text()}{self.target}"
        return hashlib.sha256(called.encode()).hexdigest()

    @functools.cached_property
    def _lowered(self) -> jax.stages.Lowered:
        return self._traced.lower()

    def memory(self) -> Memory | None:
        """Memory of the compiled program on one device; None where the compiler does not say."""
        stats = self.compile().memory_analysis()
        if stats is None:
            return None
        return Memory(
            arguments=stats.argument_size_in_bytes,
            outputs=stats.output_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            aliased=stats.alias_size_in_bytes,
        )

    def raw_flops(self) -> float | None:
        """Counter D: the compiler's own figure, kept to show the difference. It counts the body of a loop once."""
        analysis = self.compile().cost_analysis()
        if isinstance(analysis, list | tuple):
            analysis = analysis[0] if analysis else None
        return None if not analysis else analysis.get("flops")


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile()
    except Exception as error:
        raise translate(error) from error


def translate(error: Exception) -> Exception:
    """The error to show for an error of the runtime: out of memory gets its own class, others stay as they are."""
    text = str(error)
    if isinstance(error, errors.SpendflopsError):
        return error
    if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text or isinstance(error, MemoryError):
        return errors.OutOfMemoryError(
            "the program does not fit into the device's memory",
            why=text.splitlines()[0][:300],
            fix="a smaller batch (--gin 'NAME/Stage.batch_size = ...'); `spendflops plan --compile` shows the memory",
        )
    return error
