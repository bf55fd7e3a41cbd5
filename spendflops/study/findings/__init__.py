"""All that points say, in one place: what `spendflops frontier` prints. Without jax."""

from spendflops.study.findings.findings import Findings, find
from spendflops.study.findings.text import to_json, to_text

__all__ = ["Findings", "find", "to_json", "to_text"]
