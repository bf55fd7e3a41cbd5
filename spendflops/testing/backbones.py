"""The checks of a backbone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from spendflops.accounts.flops import count_jaxpr
from spendflops.contracts import errors
from spendflops.contracts.backbone import Backbone, TokenBackbone
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import DatasetInfo, Features, Loss, Tokens
from spendflops.engine.describe import describe
from spendflops.engine.state import Definition, define, flatten
from spendflops.testing.kit import CheckFailed, Skipped, needs
from spendflops.testing.model import context, has_option
from spendflops.testing.samples import differences, listed


class _Carrier(Objective):
    """Holds a backbone, so that the core can build and take apart what it builds and takes apart in a run."""

    inputs: ClassVar = {"image": "uint8 B H W C"}
    views = Views

    def __init__(self, backbone: Backbone, *, info: DatasetInfo, rngs: Any):
        self.backbone = backbone

    def loss(self, batch: Any, targets: Any, ctx: Any) -> Loss:
        return Loss(value=jnp.mean(self.backbone(batch["image"], ctx).summary))


class Subject:
    """A backbone with random images."""

    def __init__(self, cls: type, *, options: Mapping[str, Any], batch_size: int = 2):
        self.cls, self.batch_size = cls, batch_size
        self.factory = functools.partial(cls, **options)

    @functools.cached_property
    def definition(self) -> Definition:
        """The backbone without values."""
        return self.define()

    def define(self, **changes: Any) -> Definition:
        """A new one with other options."""
        factory = functools.partial(self.factory, **changes)
        return define(factory, _Carrier, info=DatasetInfo(name="kit", features={}))

    @functools.cached_property
    def values(self) -> tuple[Any, Any]:
        """Parameters, moved off zero so that nothing is multiplied away, and statistics."""
        params, stats = jax.jit(self.definition.init)(jax.random.key(0))
        return jax.tree.map(
            lambda x: x + 0.01 * jnp.sin(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)), params
        ), stats

    @property
    def example(self) -> Backbone:
        """Its static attributes."""
        return self.definition.example.backbone

    def images(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [B H W 3]."""
        shape = (self.batch_size, *(size or self.example.image_size), 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def call(self, function: Any, *args: Any, definition: Definition | None = None) -> Any:
        """``function(backbone, *args)``, compiled."""
        definition = definition or self.definition
        return jax.jit(lambda p, s, *rest: function(definition.merge(p, s).backbone, *rest))(*self.values, *args)

    @functools.cached_property
    def features(self) -> Features:
        """Of the images."""
        return self.call(lambda b, x: b(x, context(train=False)), self.images())

    def tokens(self) -> None:
        """Skips where there is no set of tokens to look at."""
        if not issubclass(self.cls, TokenBackbone):
            raise Skipped("not a TokenBackbone")


def builds(s: Subject) -> None:
    """It is built without allocating anything and says its dim, stride and image_size."""
    example = s.example
    for name, fits in (("dim", int), ("stride", tuple), ("image_size", tuple)):
        if not isinstance(getattr(example, name, None), fits):
            raise CheckFailed(f"self.{name} is no {fits.__name__}", fix="set it in __init__")
    describe(s.factory)


def parameters(s: Subject) -> None:
    """All parameters are float32, there is no random state, and no name holds a slash."""
    if wrong := [p for p, x in flatten(s.definition.params).items() if x.dtype != jnp.float32]:
        raise CheckFailed(f"not float32: {listed(wrong)}", fix="compute_dtype is for products; parameters stay float32")
    kept = [p for p, x in flatten(s.definition.stats).items() if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    if kept:
        raise CheckFailed(f"random keys are kept: {listed(kept)}", fix="take keys from ctx.fork(name)")


def shapes(s: Subject) -> None:
    """Tokens [B N D], prefix [B P D] and summary [B D] are of width ``dim``; the grid has N places."""
    f, example, size = s.features, s.example, s.batch_size
    if f.tokens.ndim != 3 or f.prefix.ndim != 3 or f.summary.shape != (size, example.dim):
        raise CheckFailed(f"tokens {f.tokens.shape}, prefix {f.prefix.shape}, summary {f.summary.shape}")
    if {f.tokens.shape[0], f.prefix.shape[0]} != {size} or {f.tokens.shape[2], f.prefix.shape[2]} != {example.dim}:
        raise CheckFailed(f"tokens {f.tokens.shape}, prefix {f.prefix.shape} for B={size}, D={example.dim}")
    grid = tuple(n // d for n, d in zip(example.image_size, example.stride, strict=True))
    if f.grid is None or tuple(f.grid) != grid or int(np.prod(f.grid)) != f.tokens.shape[1]:
        raise CheckFailed(f"grid {f.grid} of {f.tokens.shape[1]} tokens", why=f"image_size over stride is {grid}")
    if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(f)):
        raise CheckFailed("features are not finite")


@needs("shapes")
def levels(s: Subject) -> None:
    """``levels`` gives one map for each number that is asked for, with its grid and stride; ``hierarchy`` is true."""
    hierarchy = s.example.hierarchy
    numbers = (-1, 0, *range(len(hierarchy)))
    f = s.call(lambda b, x: b(x, context(train=False), levels=numbers), s.images())
    if (found := tuple((level.tokens.shape[-1], level.stride) for level in f.levels[2:])) != hierarchy:
        raise CheckFailed(
            f"hierarchy {hierarchy}, but the levels have widths and strides {found}",
            fix="one (width, stride) for each level, or leave hierarchy out",
        )
    for number, level in zip(numbers, f.levels, strict=True):
        if level.tokens.ndim != 3 or level.tokens.shape[1] != int(np.prod(level.grid)):
            raise CheckFailed(f"level {number} has tokens {level.tokens.shape} on a grid {level.grid}")
        if level.grid[0] * level.stride != s.example.image_size[0]:
            raise CheckFailed(f"level {number} has stride {level.stride} on a grid {level.grid}")


@needs("shapes")
def pixels(s: Subject) -> None:
    """uint8 images and those that ``normalise`` made of them give the same."""
    other = s.call(lambda b, x: b(b.normalise(x), context(train=False)), s.images())
    _close(s.features, other, "normalised images give other features", "normalise integers only")


@needs("shapes")
def independent(s: Subject) -> None:
    """Outside training an image's features depend neither on the key nor on the other images of the batch."""
    again = s.call(lambda b, x, k: b(x, context(key=7, train=False)), s.images(), jax.random.key(0))
    if bad := differences(s.features, again):
        raise CheckFailed(f"another key gives another {listed(bad)}", fix="drop and draw only where ctx.train")
    flipped = s.call(lambda b, x: b(x, context(train=False)), s.images()[::-1].copy())
    back = jax.tree.map(lambda x: x[::-1], flipped)
    _close(s.features, back, "features depend on the batch", "use running statistics unless ctx.train")


@needs("shapes")
def gradients(s: Subject) -> None:
    """Every parameter has a gradient from what the backbone gives."""

    def value(b: Backbone, x: Any) -> jax.Array:
        leaves = jax.tree.leaves(b(x, context(train=False)))
        return sum(jnp.sum(jnp.sin(leaf * jnp.arange(1, leaf.size + 1).reshape(leaf.shape))) for leaf in leaves)

    params, stats = s.values
    grads = jax.jit(jax.grad(lambda p: value(s.definition.merge(p, stats).backbone, s.images())))(params)
    if dead := [p for p, g in flatten(grads).items() if not np.any(g)]:
        raise CheckFailed(f"no gradient reaches {listed(dead)}", fix="remove what is never used")


@needs("shapes")
def embed_encode(s: Subject) -> None:
    """``encode(embed(x))`` is what calling the backbone gives."""
    s.tokens()
    parts = s.call(lambda b, x: b.encode(b.embed(x), context(train=False)), s.images())
    _close(s.features, parts, "encode(embed(x)) differs from a call", "do not override __call__ of a TokenBackbone")


@needs("embed_encode")
def permutation(s: Subject) -> None:
    """Taking all tokens in another order and putting them back changes nothing."""
    order = np.stack([np.random.default_rng(i).permutation(_count(s)) for i in range(s.batch_size)])

    def shuffled(b: TokenBackbone, x: Any) -> Features:
        return b.encode(b.embed(x).take(jnp.asarray(order)), context(train=False))

    f = _encoded(s, shuffled)
    back = np.take_along_axis(np.asarray(f.tokens), np.argsort(order, axis=1)[..., None], axis=1)
    fix = "add positions to the tokens (Tokens.pos), not by place in the encoder"
    _close(s.features.tokens, back, "the order of the tokens changes them", fix)
    _close(s.features.summary, f.summary, "the order of the tokens changes the summary", fix)


@needs("embed_encode")
def subset_cost(s: Subject) -> None:
    """Half of the tokens cost at most their part of the FLOPs."""
    total, prefix = _count(s), s.features.prefix.shape[1]
    costs = [_cost(s, kept) for kept in (total, total // 2)]
    allowed = costs[0] * (total // 2 + prefix) / (total + prefix)
    if costs[1] > 1.01 * allowed:
        raise CheckFailed(
            f"{total} tokens cost {costs[0]:,} FLOPs, {total // 2} cost {costs[1]:,}",
            fix="leave tokens out before the first block instead of masking them",
        )


@needs("shapes")
def sizes(s: Subject) -> None:
    """Images of one and a half times the size give as many more tokens, or a ConfigError."""
    size = tuple(d * round(1.5 * n / d) for n, d in zip(s.example.image_size, s.example.stride, strict=True))
    try:
        f = s.call(lambda b, x: b(x, context(train=False)), s.images(size))
    except errors.ConfigError as error:
        raise Skipped(f"refuses other sizes: {error.what}") from error
    wanted = int(np.prod([n // d for n, d in zip(size, s.example.stride, strict=True)]))
    if f.tokens.shape[1] != wanted:
        raise CheckFailed(f"{f.tokens.shape[1]} tokens of images of {size}, not {wanted}")


@needs("shapes")
def bfloat16(s: Subject) -> None:
    """With bfloat16 operands features are within 5 % (as a relative norm) of float32's, and still float32."""
    if not has_option(s.factory, "compute_dtype"):
        raise Skipped("no option compute_dtype")
    wide, narrow = (
        s.call(lambda b, x: b(x, context(train=False)), s.images(), definition=s.define(compute_dtype=name))
        for name in ("float32", "bfloat16")
    )
    if narrow.summary.dtype != jnp.float32 or narrow.tokens.dtype != jnp.float32:
        raise CheckFailed(f"the summary is {narrow.summary.dtype}", fix="accumulate into float32 (parts.nn.linear)")
    _close(wide, narrow, "bfloat16 is far from float32", "keep norms, softmaxes and the residual float32", 0.05)


def _count(s: Subject) -> int:
    return s.features.tokens.shape[1]


def _encoded(s: Subject, function: Any) -> Features:
    try:
        return s.call(function, s.images())
    except errors.ConfigError as error:
        raise Skipped(f"refuses sets of tokens: {error.what}") from error


def _cost(s: Subject, kept: int) -> int:
    def encode(params: Any, stats: Any, tokens: Tokens) -> Features:
        return s.definition.merge(params, stats).backbone.encode(tokens, context(train=False))

    tokens = s.call(lambda b, x: b.embed(x), s.images())
    index = jnp.broadcast_to(jnp.arange(kept), (s.batch_size, kept))
    try:
        return count_jaxpr(jax.jit(encode).trace(*s.values, tokens.take(index)).jaxpr).total or 0
    except errors.ConfigError as error:
        raise Skipped(f"refuses sets of tokens: {error.what}") from error


def _close(a: Any, b: Any, what: str, fix: str, bound: float = 1e-4) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        off = np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-12) if x.size else 0.0
        if not off <= bound:
            raise CheckFailed(f"{what}: off by {off:.2g} of the norm", fix=fix)


CHECKS = (
    builds, parameters, shapes, levels, pixels, independent, gradients, embed_encode, permutation, subset_cost, sizes,
    bfloat16,
)  # fmt: skip
