"""The quickstart's claims, on the quickstart's own configuration."""

import math
import statistics

import pytest

from spendflops import config
from spendflops.study.launch import Launch

SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_supervised_beats_a_random_backbone_by_three_pooled_deviations_over_three_seeds(tmp_path):
    bindings = [
        "Study.methods = {'supervised': (@supervised/Stage(),)}",
        "Study.budgets = ('1.2e12',)",
        f"Study.seeds = {SEEDS}",
        "Study.finetune = None",
        "Study.scratch = None",
        "Study.transfer_evaluations = ()",
    ]
    # The bindings leave parts of the file idle, which is an error for a user's file and not for a preset.
    composed = config.compose(gin_files=["studies/quickstart.gin"], bindings=bindings)
    study = config.load(composed, root="Study").object
    report = Launch(study=study, folder=tmp_path, quiet=True, say=lambda line: None).run()
    assert not report.failed
    scores, flops = {}, {}
    for row in report.rows:
        scores.setdefault(row.label, []).append(next(s.value for s in row.scores if s.metric == "accuracy"))
        flops.setdefault(row.label, set()).add((row.flops["pretrain"], row.flops["evaluate"]))
    trained, random = scores["supervised"], scores["random"]
    pooled = math.sqrt((statistics.variance(trained) + statistics.variance(random)) / 2)
    assert statistics.mean(trained) - statistics.mean(random) > 3 * pooled
    # Another seed changes every score and no FLOP count.
    assert all(len(set(values)) == len(SEEDS) for values in scores.values())
    assert all(len(costs) == 1 for costs in flops.values())
