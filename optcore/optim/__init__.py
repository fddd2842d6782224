"""Rules as `torch.optim.Optimizer`s, with torch's names, arguments and state keys.

The functions of `optcore.rules` are the ground truth; the in-place code here is held to them, step
by step, by the tests. `maximize` turns the gradient's sign first.
"""

from optcore.optim.adaptive import Adagrad, Adam, AdamW, Lion, RMSprop
from optcore.optim.from_rule import FromRule
from optcore.optim.momentum import SGD, HeavyBall, Nesterov
from optcore.optim.muon import Muon

__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "FromRule",
    "HeavyBall",
    "Lion",
    "Muon",
    "Nesterov",
    "RMSprop",
    "SGD",
]
