"""Paired differences against scipy's paired t test."""

import numpy as np
import pytest
from scipy import stats

from spendflops.study.frontier.interval import NotEnough
from spendflops.study.frontier.paired import difference, mean


def test_the_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 9):
        a, b = rng.normal(50, 2, count), rng.normal(49, 2, count)
        found = difference(dict(enumerate(a)), dict(enumerate(b))).mean.interval()
        expected = stats.ttest_rel(a, b).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-10)
        assert found.value == pytest.approx(np.mean(a - b), abs=1e-12)


def test_what_seeds_have_in_common_cancels():
    shared = {0: 10.0, 1: 50.0, 2: 90.0}
    found = difference({s: v + 1 for s, v in shared.items()}, shared)
    assert found.mean.distinguishable and found.mean.value == 1
    assert not mean([11.0 - 50, 51.0 - 90, 91.0 - 10]).distinguishable  # unpaired, nothing could be said


def test_seeds_of_one_alone_are_named():
    found = difference({0: 1.0, 1: 2.0, 5: 3.0}, {0: 2.0, 1: 3.0, 7: 9.0}, sign=-1)
    assert found.unpaired == (5, 7)
    assert (found.mean.value, found.mean.n) == (1.0, 2)


def test_thin_data_are_an_answer():
    assert isinstance(difference({0: 1.0}, {1: 1.0}), NotEnough)
    assert isinstance(difference({0: 1.0}, {0: 2.0}).mean.interval(), NotEnough)
