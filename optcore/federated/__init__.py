"""Federated averaging: who holds what, a client's work, a round, the server's aggregate.

A reader follows the three steps of the algorithm: the server sends w (`round`), each client
trains on what it holds (`client`), the server aggregates what comes back (`server`). A round is an
estimator, so that `run` and any rule of the book do the rest.
"""

from optcore.federated.partition import dirichlet, holdings, iid, ring, shards
from optcore.federated.round import FedAvg, Scaffold
from optcore.federated.server import coordinate_median, mean, trimmed_mean

__all__ = [
    "FedAvg",
    "Scaffold",
    "coordinate_median",
    "dirichlet",
    "holdings",
    "iid",
    "mean",
    "ring",
    "shards",
    "trimmed_mean",
]
