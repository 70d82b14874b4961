"""What runs a plan inside a model; `attach` is its door."""

from tokenprune.engine.attach import attach
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.report import Report

__all__ = ["Attachment", "Report", "attach"]
