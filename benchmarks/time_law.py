"""Seconds of training steps of all methods at several widths, and the power law through them.

Steps alone, without reading data, float32. Patches of 8 on 64 pixels, 6 blocks; widths of 64, 128 and 256; batches of
16. The law is fitted to the medians; what it misses a method by that it has not seen is what a prediction for a new
method is worth.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys

import harness

from spendflops.accounts.speed import PowerLaw, Speed, fit

METHODS = {
    "supervised": {},
    "mae": {"decoder_dim": 64, "decoder_depth": 4, "decoder_heads": 4},
    "mae 1-layer": {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 4},
    "simclr": {"projector_layers": 2, "projector_dim": 128},
    "byol": {"projector_layers": 2},
    "dino": {},
    "clip": {"embedding_dim": 128, "text_dim": 64, "text_depth": 4, "text_heads": 4},
    "simmim": {},
}
WIDTHS = (64, 128, 256)
BATCH, WARM = 16, 1


def measured(method: str, width: int, steps: int) -> tuple[int, list[float]]:
    """Model FLOPs of a step, and seconds of each step, compiled before."""
    from stages import Nothing, timed

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
        objective=functools.partial(registry.load("objectives", name), **METHODS[method]),
        backbone=vit,
        dataset=Nothing(),
        optimizer=adamw(lr=1e-4, weight_decay=0.05),
        batch_size=BATCH,
    )
    return timed(stage, steps, warm=WARM)


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
    """Times all programs in one process, then fits."""
    quick = harness.options(__doc__ or "").quick
    before, cases, speeds = harness.machine(), [], []
    for method in list(METHODS)[:2] if quick else METHODS:
        for width in WIDTHS[:2] if quick else WIDTHS:
            flops, samples = measured(method, width, 1 if quick else 7)
            cases.append(harness.Case(name=f"{method}, width {width}: {flops:.3e} FLOPs", unit="s", samples=samples))
            speeds.append(Speed(method=method, flops=flops, seconds=statistics.median(samples)))
            print(f"{method} {width}: {flops:.3e} FLOPs, {statistics.median(samples):.3f} s", file=sys.stderr)
    found = fit(speeds)
    about = found.reason or told(found.law)
    harness.finish("time_law", cases, quick=quick, before=before, about=about)
    print(about, file=sys.stderr)


if __name__ == "__main__":
    main()
