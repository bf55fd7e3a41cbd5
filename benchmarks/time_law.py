"""Seconds of training steps of all methods at several widths, and the power law through them.

Steps alone, without reading data, float32. Patches of 8 on 64 pixels, 6 blocks; widths of 64, 128 and 256; batches of
16; heads of the size of the models. All programs take their steps in turns, so that a machine that slows down slows all
of them. The law is fitted to the medians; what it misses a method by that it has not seen is what a prediction for a
new method is worth. DINO with its published head of 65,536 prototypes on so small a model is not in the law, but beside
it: what FLOPs do not know.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
from collections.abc import Callable

import harness

from spendflops.accounts.speed import PowerLaw, Speed, fit

METHODS = {
    "supervised": {},
    "mae": {"decoder_dim": 64, "decoder_depth": 4, "decoder_heads": 4},
    "mae 1-layer": {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    "simclr": {"projector_layers": 2, "projector_dim": 128},
    "byol": {"projector_layers": 2},
    "dino": {"out_dim": 1024},
    "clip": {"embedding_dim": 128, "text_dim": 64, "text_depth": 4, "text_heads": 4},
    "simmim": {},
}
BESIDE = "dino 65,536 prototypes"
WIDTHS = (64, 128, 256)
BATCH, STEPS = 16, 9


def program(method: str, width: int) -> tuple[int, Callable[[], float]]:
    """Model FLOPs of a step, and what takes one and gives its seconds."""
    from stages import Nothing, prepared

    from spendflops.contracts import registry
    from spendflops.engine.optim import adamw
    from spendflops.engine.recipe import Stage

    name = method.split()[0]
    relative = {"positions": "none", "relative_positions": "shared"} if name == "simmim" else {}
    learned = {"positions": "learned", "position_resize": "dino_bicubic"} if name == "dino" else {}
    vit = functools.partial(
        registry.load("backbones", "vit"),
        image_size=64,
        patch_size=8,
        dim=width,
        depth=6,
        heads=4,
        **relative,
        **learned,
    )
    stage = Stage(
        objective=functools.partial(registry.load("objectives", name), **METHODS.get(method, {})),
        backbone=vit,
        dataset=Nothing(),
        optimizer=adamw(lr=1e-4, weight_decay=0.05),
        batch_size=BATCH,
    )
    return prepared(stage)


def told(law: PowerLaw) -> str:
    """A law in one sentence."""
    one = law.at(10**10)
    left = ", ".join(f"{name} {ratio:.2f}" for name, ratio in law.left_out.items())
    return (
        f"steps/s = {math.exp(law.intercept):.3g} (FLOPs / 1e12)^{law.slope:.3f} through {law.points} programs, the "
        f"exponent with a standard error of {law.slope_se:.3f}; R2 {law.r2:.4f} and residuals of {law.sd:.3f} in log "
        f"space; the 90 % interval of a new program of 1e10 FLOPs is a factor of "
        f"{one.high / one.steps_per_second:.2f} both ways; predicted over measured speed by the law of the other "
        f"methods: {left}"
    )


def main() -> None:
    """Times all programs in one process, in turns, then fits."""
    quick = harness.options(__doc__ or "").quick
    before = harness.machine()
    wanted = [(m, w) for m in (list(METHODS)[:2] if quick else METHODS) for w in (WIDTHS[:2] if quick else WIDTHS)]
    programs = {key: program(*key) for key in [*wanted, (BESIDE, WIDTHS[0])]}
    samples: dict[tuple[str, int], list[float]] = {key: [] for key in programs}
    for turn in range(2 if quick else 1 + STEPS):
        for key, (_, take) in programs.items():
            seconds = take()
            if turn:  # the first warms up
                samples[key].append(seconds)
    cases, speeds = [], {}
    for (method, width), (flops, _) in programs.items():
        taken = samples[method, width]
        cases.append(harness.Case(name=f"{method}, width {width}: {flops:.3e} FLOPs", unit="s", samples=taken))
        speeds[method, width] = Speed(method=method, flops=flops, seconds=statistics.median(taken))
    beside = speeds.pop((BESIDE, WIDTHS[0]))
    found = fit(speeds.values())
    about = found.reason
    if found.law is not None:
        slower = found.law.at(beside.flops).steps_per_second * beside.seconds
        about = f"{told(found.law)}; {BESIDE} take {slower:.1f} times as long as this law says"
    harness.finish("time_law", cases, quick=quick, before=before, about=about)
    print(about, file=sys.stderr)


if __name__ == "__main__":
    main()
