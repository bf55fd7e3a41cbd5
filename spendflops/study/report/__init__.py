"""One static page: tables, chart, protocol, assumptions."""

from spendflops.study.report.files import write
from spendflops.study.report.terminal import terminal_table

__all__ = ["terminal_table", "write"]
