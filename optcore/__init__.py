"""The package behind *Optimization, Executed*: small enough to be read in an evening."""

from optcore.claims import check
from optcore.data import device
from optcore.run import run

__all__ = ["check", "device", "run"]
