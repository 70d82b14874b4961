"""Reports of studies: one self-contained page, tables, and figures for papers."""

from tokenprune.reporting.figures import write_figures
from tokenprune.reporting.folder import Results, read_results
from tokenprune.reporting.page import html
from tokenprune.reporting.tables import csv_table, markdown_table
from tokenprune.reporting.write import Written, write_report

__all__ = [
    "Results",
    "Written",
    "csv_table",
    "html",
    "markdown_table",
    "read_results",
    "write_figures",
    "write_report",
]
