"""Time at a part of the peak, by hand."""

import math

import pytest

from spendflops.accounts import machines, utilisation
from spendflops.accounts.figures import given
from spendflops.contracts.errors import ConfigError


def test_time_at_a_part_of_the_peak():
    machine = machines.parse("8xA100")
    seconds, reason = utilisation.at_peak({"bfloat16": 312 * 10**13, "float32": 156 * 10**12}, machine, given(0.4))
    assert seconds == pytest.approx((1.25 + 0.125) / 0.4) and reason == ""
    # An hour of the machine of the paper at 40 %.
    paper = machines.parse("32xTPUv3")
    assert utilisation.at_peak({"float32": 32 * 123 * 10**12 * 1440}, paper, utilisation.ASSUMED)[0] == pytest.approx(
        3600
    )


def test_no_peak_no_time():
    host = machines.Host(kind="cpu", devices=1, cores=2)
    seconds, reason = utilisation.at_peak({"float32": 1}, machines.parse("this", here=host), given(0.4))
    assert seconds is None and "no peak of cpu for float32" in reason
    assert utilisation.at_peak({"bfloat16": 1}, machines.parse("V100"), given(0.4))[0] is None
    for wrong in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ConfigError, match="a utilisation of"):
            utilisation.at_peak({}, machines.parse("V100"), given(wrong))
