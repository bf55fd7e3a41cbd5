"""What the operators of detection cost by the counters: nothing, as none is a matrix product, and nothing unknown."""

import jax
import jax.numpy as jnp
from spendflops_plugins.detection.boxes import clip, decode, encode
from spendflops_plugins.detection.masks import mask_targets
from spendflops_plugins.detection.matching import match
from spendflops_plugins.detection.nms import nms
from spendflops_plugins.detection.roi_align import levels_of, roi_align
from spendflops_plugins.detection.sampling import sample, sample_masks

from spendflops.accounts.flops import count_hlo, count_jaxpr, hlo_text


def everything(maps, boxes, scores, truth, crops, key):
    valid = jnp.ones(len(scores), bool)
    kept = nms(clip(decode(boxes, boxes), (64, 64)), scores, valid, threshold=0.5)
    found = match(boxes, truth, jnp.ones(len(truth), bool), low=0.3, high=0.7, low_quality=True)
    drawn = sample(found.label, key, count=8, positives=4)
    masks = sample_masks(found.label, key, count=8, positives=4)
    seen = roi_align(maps, boxes, levels_of(boxes, lowest=2, highest=3) - 2, strides=(4, 8), size=3)
    targets = mask_targets(crops, truth, boxes, found.index, size=3)
    total = seen.sum() + encode(boxes, truth[found.index]).sum() + targets.sum() + kept.sum()
    return total + sum(one.sum() for one in (*drawn, *masks))


def test_nothing_is_counted_and_nothing_is_unknown():
    maps = [jnp.ones((16, 16, 4)), jnp.ones((8, 8, 4))]
    boxes, truth = jnp.ones((32, 4)), jnp.ones((5, 4))
    args = maps, boxes, jnp.ones(32), truth, jnp.ones((5, 8, 8), jnp.uint8), jax.random.key(0)
    step = jax.jit(jax.grad(everything))
    assert count_jaxpr(step.trace(*args).jaxpr).total == 0
    assert count_hlo(hlo_text(step.lower(*args).compile())).total == 0
