"""The input pipeline: the batch is a pure function of (seed, step).

Grain's ``MapDataset`` gives random access, so a resumed run starts at any step without iterator state, and its order
depends neither on the number of readers nor on the number of hosts. ``filter`` is never used: it would break random
access. A host reads the rows of its own devices and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import grain
import jax
import numpy as np

from spendflops.contracts import errors
from spendflops.contracts.dataset import Source
from spendflops.contracts.evaluator import INDEX, Preprocess
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import InputSpec, Sample
from spendflops.engine.sharding import Mesh
from spendflops.parts.splits import permutation

if TYPE_CHECKING:
    from spendflops.engine.skips import Skipped

AHEAD = 4
"""Batches that are read ahead. With the one that is being put together and the one that is handed over, a run holds at
most ``AHEAD + 2`` batches of its host, whatever the number of readers."""
THREADS_ENOUGH = 16
"""Cores up to which threads of one process read: decoding and resizing release Python's lock, the rest does not."""
LARGEST = 2**32
"""Grain shuffles with 32-bit indices, and says nothing above."""
SMALL = 2**16
"""Sets up to this many examples are shuffled by a table: Grain computes each index alone, and takes 0.2 ms for one of
128 examples and 9 ms for one of two, since it looks for it among 65,536."""
REPLACEMENTS = 16
"""Other examples that are tried in the place of a broken one."""
BROKEN = "_broken"
"""The entry of a batch that says which examples were broken: their index, or -1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Readers:
    """Who reads: ``threads`` in this process, or in each of ``processes`` others."""

    processes: int
    threads: int

    @property
    def count(self) -> int:
        """Examples that are made at one time."""
        return max(1, self.processes) * self.threads

    def __str__(self) -> str:
        threads = f"{self.threads} reader thread{'s' * (self.threads > 1)}"
        return f"{self.processes} processes of {threads}" if self.processes else threads


def readers() -> Readers:
    """Readers for this machine: a thread a core; beyond :data:`THREADS_ENOUGH` cores a process for every 8.

    Grain's default of 16 threads costs 40 % of the throughput on 2 cores. The environment may say otherwise:
    ``SPENDFLOPS_WORKERS`` processes (0 for none) and ``SPENDFLOPS_THREADS`` threads in each.

    Raises:
        errors.ConfigError: A value that is not such a number.
    """
    cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    processes = _from_environment("SPENDFLOPS_WORKERS", 0 if cores <= THREADS_ENOUGH else cores // 8, lowest=0)
    threads = _from_environment("SPENDFLOPS_THREADS", max(1, cores // max(1, processes)), lowest=1)
    return Readers(processes=processes, threads=threads)


def _from_environment(name: str, default: int, *, lowest: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or int(text) < lowest:
        raise errors.ConfigError(f"{name}={text!r} is not a number of readers", fix=f"a whole number from {lowest} on")
    return int(text)


def _parse_absl_flags() -> None:
    # Grain reads absl flags and raises in a program that did not parse any.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1], known_only=True)


def _start_worker(worker: int, count: int) -> None:
    # A reader computes nothing on a device, and must not take one from the run.
    os.environ["JAX_PLATFORMS"] = "cpu"
    _parse_absl_flags()


@dataclasses.dataclass(frozen=True)
class _Example:
    """Index -> inputs, the same for the same index and generator. A broken example may be replaced."""

    source: Source
    make: Callable[[Sample, np.random.Generator], Mapping[str, np.ndarray]]
    replace: bool

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        try:
            return {**self.make(self.source[index], rng), BROKEN: np.int64(-1)}
        except errors.DataError as error:
            if not self.replace:
                raise
            first = error
        for _ in range(REPLACEMENTS):
            # From the example's own generator: the same replacement on every machine and at every repetition.
            other = int(rng.integers(len(self.source)))
            with contextlib.suppress(errors.DataError):
                return {**self.make(self.source[other], rng), BROKEN: np.int64(index)}
        raise errors.DataError(
            f"{REPLACEMENTS} examples that should replace a broken one are broken, too", why=str(first), fix=first.fix
        )


@dataclasses.dataclass(frozen=True)
class _Make:
    views: Views
    spec: InputSpec

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.views(sample, rng, self.spec)


class _Shuffle(grain.MapDataset):
    """Epoch after epoch, each in an order of its own. For :data:`SMALL` sets."""

    def __init__(self, parent: grain.MapDataset, *, seed: int):
        super().__init__(parent)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, len(self))
        return self._parent[epoch * len(self) + int(_order(len(self), self._seed, epoch)[place])]


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(count, (epoch << 64) + seed)


class _Share(grain.MapDataset):
    """The rows of one host: rows [host * n, (host + 1) * n) of every global batch, n rows a host."""

    def __init__(self, parent: grain.MapDataset, *, rows: int, host: int, hosts: int):
        super().__init__(parent)
        self._rows, self._host, self._hosts = rows, host, hosts

    def __len__(self) -> int:
        return len(self._parent) // self._hosts

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        step, row = divmod(index, self._rows)
        return self._parent[(step * self._hosts + self._host) * self._rows + row]


class Batches:
    """Training batches: ``batches[step]`` and iteration from any step give the same arrays.

    Args:
        source: Samples.
        views: Sample -> inputs.
        spec: Of the model.
        batch_size: Examples a batch, all hosts.
        seed: Of this stage's order and augmentation.
        skipped: Broken examples are replaced by others and noted here; None raises their errors.
        host, hosts: The rows of which of how many hosts these are.
    """

    def __init__(
        self, source: Source, views: Views, *, spec: InputSpec, batch_size: int, seed: int,
        skipped: Skipped | None = None, host: int = 0, hosts: int = 1,
    ):  # fmt: skip
        if len(source) == 0:
            raise errors.DataError("the training data are empty", fix="check the path and the split")
        if len(source) >= LARGEST:
            raise errors.DataError(
                f"{len(source):,} examples are more than the {LARGEST:,} that can be shuffled",
                why="the permutation has 32-bit indices",
                fix="train on a part: train[0/2], train[1/2], ...",
            )
        if batch_size % hosts:
            raise errors.ConfigError(f"batch_size {batch_size} cannot be split over {hosts} hosts")
        _parse_absl_flags()
        self._rows, self._skipped = batch_size // hosts, skipped
        indices = grain.MapDataset.range(len(source))
        shuffled = _Shuffle(indices, seed=seed) if len(source) <= SMALL else indices.shuffle(seed=seed)
        make = _Example(source, _Make(views, spec), skipped is not None)
        examples = shuffled.repeat().random_map(make, seed=seed)
        self._examples = _Share(examples, rows=self._rows, host=host, hosts=hosts) if hosts > 1 else examples

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._noted(self._examples[step * self._rows : (step + 1) * self._rows].batch(self._rows)[0])

    @contextlib.contextmanager
    def read(self, first: int, last: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Batches of the steps [first, last), read ahead."""
        who = readers()
        pieces = _pieces(self._rows, who.count)
        examples = self._examples[first * self._rows : last * self._rows].batch(self._rows // pieces)
        ahead = AHEAD * pieces
        options = grain.ReadOptions(num_threads=who.threads, prefetch_buffer_size=ahead // max(1, who.processes) or 1)
        stream = examples.to_iter_dataset(options)
        if who.processes:
            workers = grain.MultiprocessingOptions(num_workers=who.processes, per_worker_buffer_size=1)
            stream = stream.mp_prefetch(workers, worker_init_fn=_start_worker)
        iterator = iter(stream)
        try:
            yield (self._noted(_joined([next(iterator) for _ in range(pieces)])) for _ in range(first, last))
        finally:
            close = getattr(iterator, "close", None)
            if close:
                close()

    def _noted(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        broken = batch.pop(BROKEN)
        if self._skipped is not None:
            self._skipped.note(broken)
        return batch


def _pieces(rows: int, count: int) -> int:
    """Pieces a batch is read in, a divisor of its rows: so many that ``AHEAD`` batches occupy all readers."""
    wanted = math.ceil(count / AHEAD)
    return next((n for n in range(wanted, rows + 1) if rows % n == 0), rows)


def _joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return pieces[0] if len(pieces) == 1 else {n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}


@dataclasses.dataclass(frozen=True)
class _Prepare:
    preprocess: Preprocess

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        entries = dict(self.preprocess(sample))
        for name in self.preprocess.kept:
            # An array of one object: Grain stacks it, and never looks inside.
            entries[name], given = np.empty((), object), entries[name]
            entries[name][()] = given
        return entries


def padded(
    source: Source, preprocess: Preprocess, *, batch_size: int, skipped: Skipped | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Evaluation batches in the source's order; the last one is filled up and ``_mask`` says which examples count.

    ``_index`` int64 [B] is the place of each in the source; what the preprocessing keeps is object [B].
    With ``skipped`` the place of a broken example is filled, too, and does not count.
    """
    if len(source) == 0:
        raise errors.DataError("the evaluation data are empty", fix="check the path and the split")
    _parse_absl_flags()
    examples = grain.MapDataset.range(len(source)).random_map(
        _Example(source, _Prepare(preprocess), skipped is not None), seed=0
    )
    who = readers()
    # The buffer is of batches: Grain polls all that waits in it for each element that it gives.
    options = grain.ReadOptions(num_threads=who.count, prefetch_buffer_size=AHEAD)
    for number, batch in enumerate(examples.batch(batch_size, drop_remainder=False).to_iter_dataset(options)):
        broken = batch.pop(BROKEN)
        if skipped is not None:
            skipped.note(broken)
        real = len(broken)
        full = {n: np.pad(a, [(0, batch_size - real)] + [(0, 0)] * (a.ndim - 1)) for n, a in batch.items()}
        index = np.arange(number * batch_size, (number + 1) * batch_size)
        yield {**full, INDEX: index, "_mask": np.pad(broken < 0, (0, batch_size - real))}


def train_structs(
    objective: Objective, views: Views, spec: InputSpec, batch_size: int, *, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Shapes of a training batch from the objective's ``inputs`` and the letters of its views. No data is opened.

    Optional inputs are part of it where the views say that they give them.

    Raises:
        errors.PluginError: A specification that cannot be read or a letter without a size.
    """
    letters, mesh = {**views.letters(spec), "B": batch_size}, mesh or Mesh()
    structs = {}
    for name, text in objective.inputs.items():
        if name.endswith("?") and name.rstrip("?") not in views.optional:
            continue
        dtype, *axes = text.split()
        shape = tuple(_axis(axis, letters, f"{type(objective).__name__}.inputs[{name!r}]") for axis in axes)
        structs[name.rstrip("?")] = mesh.struct(shape, np.dtype(dtype), batch=True)
    return structs


def _axis(axis: str, letters: Mapping[str, int], where: str) -> int:
    match = re.fullmatch(r"([A-Za-z_]+)?(?:=?(\d+))?", axis)
    if match and match.group(2):
        return int(match.group(2))
    if match and match.group(1) in letters:
        return letters[match.group(1)]
    raise errors.PluginError(
        f"{where}: no size for {axis!r}",
        why=f"known letters: {', '.join(sorted(letters))}",
        fix="write its size (V=2) or return it from the views' letters(spec)",
    )


def check_batch(batch: Mapping[str, np.ndarray], structs: Mapping[str, jax.ShapeDtypeStruct], who: str) -> None:
    """Raises a ConfigError where a batch is not what the objective declared: before anything compiles."""
    for name, wanted in structs.items():
        if name not in batch:
            raise errors.ConfigError(
                f"{who} needs the input {name!r}",
                why=f"the views give {', '.join(batch)}",
                fix="use the method's own views, or add the entry to yours",
            )
        got = batch[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise errors.ConfigError(
                f"{who}: input {name!r} is {got.dtype}{list(got.shape)}, declared {wanted.dtype}{list(wanted.shape)}",
                fix="views, image size and `inputs` must agree",
            )
    extra = sorted(set(batch) - set(structs))
    if extra:
        raise errors.ConfigError(f"{who}: the views give {extra[0]!r}, which it does not declare in `inputs`")


def stage_seed(seed: int, stage: int) -> int:
    """The seed of a stage's data: independent streams for neighbouring seeds and stages."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint32)[0] >> 1)
