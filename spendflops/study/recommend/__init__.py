"""Which method, model, data set and length a budget should be spent on, and how sure that is. Without jax."""

from spendflops.study.recommend.offers import BEYOND
from spendflops.study.recommend.question import FILTERS, flops_of, missing
from spendflops.study.recommend.recommend import Recommendation, recommend
from spendflops.study.recommend.text import to_json, to_text

__all__ = ["BEYOND", "FILTERS", "Recommendation", "flops_of", "missing", "recommend", "to_json", "to_text"]
