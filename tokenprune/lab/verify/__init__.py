"""The invariants of a plan, run on the user's own model and weights."""

from tokenprune.lab.verify.record import InvariantRow, Verification
from tokenprune.lab.verify.run import verify
from tokenprune.lab.verify.samples import samples_for
from tokenprune.lab.verify.table import verdict, verification_table

__all__ = [
    "InvariantRow",
    "Verification",
    "samples_for",
    "verdict",
    "verification_table",
    "verify",
]
