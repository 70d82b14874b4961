"""Reports of studies: one self-contained page, tables, and figures for papers."""

from tokenprune.lab.report.figures import write_figures
from tokenprune.lab.report.folder import Results, read_results
from tokenprune.lab.report.page import html
from tokenprune.lab.report.write import Written, write_report

__all__ = [
    "Results",
    "Written",
    "html",
    "read_results",
    "write_figures",
    "write_report",
]
