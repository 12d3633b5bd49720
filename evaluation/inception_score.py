"""The Inception score."""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from evaluation.frechet import Estimate

SPLITS = 10


def inception_score(logits: Float[np.ndarray, "N C"]) -> Estimate:
    """exp of the mean divergence of an image's classes from those of all: mean and deviation of ten splits.

    The splits are runs of the images: in an order that says nothing of them, as a random one.

    logits: of the 2015 Inception, without the bias of its last layer, as in the original.

    Raises:
        ValueError: there are fewer images than splits.

    Source: Salimans et al., 2016 (arXiv:1606.03498).
    """
    if len(logits) < SPLITS:
        raise ValueError(f"is wants {SPLITS} images or more, but got {len(logits)}.")
    scores = []
    for part in np.array_split(np.asarray(logits, np.float64), SPLITS):
        log_classes = log_softmax(part, axis=1)
        classes = np.exp(log_classes)
        log_mean = logsumexp(log_classes, axis=0, keepdims=True) - np.log(len(part))
        scores.append(np.exp((classes * (log_classes - log_mean)).sum(1).mean()))
    return Estimate(float(np.mean(scores)), float(np.std(scores)))
