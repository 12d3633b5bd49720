"""Tasks that models are trained for from random weights."""

from transformer.tasks.data import Data
from transformer.tasks.opening import open_task

__all__ = ["Data", "open_task"]
