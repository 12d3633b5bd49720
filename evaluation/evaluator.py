"""Measures generated images against real ones."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from evaluation.frechet import Estimate
from evaluation.images import Images, Observed, Progress, features_of, hash_of
from evaluation.metrics import METRICS
from evaluation.networks import Network
from evaluation.statistics import Origin, Statistics, collect, compared, load_statistics, save_statistics
from training.processes import say


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """estimates: by name, as fd_dinov2_s14. num_fake, num_real: images, 0 where not known.

    remarks: what to know before believing them. fake: the statistics, by network.
    """

    estimates: dict[str, Estimate]
    num_fake: int
    num_real: int
    remarks: list[str]
    fake: list[Statistics]

    def values(self) -> dict[str, float | int]:
        """Plain numbers: a field a metric, its standard deviation as NAME_sd, num_fake and num_real."""
        found: dict[str, float | int] = {"num_fake": self.num_fake, "num_real": self.num_real}
        for name, estimate in self.estimates.items():
            found[name] = estimate.value
            if estimate.spread is not None:
                found[f"{name}_sd"] = estimate.spread
        return found

    def lines(self) -> list[str]:
        """A line a metric, with its spread and the counts, and the remarks."""
        counts = f"{self.num_fake} generated, {self.num_real or 'an unknown number of'} real images"
        found = []
        for name, (value, spread) in self.estimates.items():
            with_spread = f"{value:.5g}" + ("" if spread is None else f" ± {spread:.2g}")
            found.append(f"{name}: {with_spread} ({counts})")
        return found + self.remarks


class Evaluator:
    """Metrics of images, by the features of some networks.

    networks: of `evaluation.networks`. metrics: names of METRICS. progress: wraps iterables, as tqdm does.
    cache: a folder that keeps statistics of real images, by their content; None: none
    does. devices: of this process; None: the first. seed: of subsets.

    Raises:
        ValueError: a name is unknown, or "is" is wanted and no network knows classes.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        metrics: Sequence[str],
        progress: Progress,
        *,
        cache: str | None = None,
        devices: Sequence[jax.Device] | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ):
        check_metrics(metrics)
        if "is" in metrics and not any(network.has_logits for network in networks):
            raise ValueError(
                "--metrics=is wants --features=inception: no other network here knows its classes."
            )
        self._networks, self._metrics, self._progress, self._seed = networks, metrics, progress, seed
        self._cache = None if cache is None else epath.Path(os.path.expanduser(cache))
        self._options: dict[str, Any] = {"batch_size": batch_size, "devices": devices}

    def check_counts(self, num_fake: int | None, num_real: int | None) -> None:
        """Raises ValueError where a metric wants more images than that; names it. None: not known yet."""
        for network in self._networks:
            for name in self._metrics:
                for which, count, fewest in zip(
                    ("generated", "real"),
                    (num_fake, num_real),
                    METRICS[name].fewest(network.width),
                    strict=True,
                ):
                    if count is not None and count < fewest:
                        raise ValueError(
                            f"--metrics={name} of --features={network.name} wants {fewest} {which} images or "
                            f"more, but there are {count}: --num, or another metric."
                        )

    def _wants(self, what: str) -> bool:
        return any(what in METRICS[name].wants for name in self._metrics)

    def real(self, images: Images) -> list[Statistics]:
        """Statistics of real images, one a network: those of the cache, if they are there."""
        self.check_counts(None, len(images))
        observed = Observed(images)
        digest = hash_of(observed, self._bar("reading real images"))
        return [self._cached(network, observed, digest) for network in self._networks]

    def real_of_file(self, path: str) -> list[Statistics]:
        """Statistics of a file, for the one network.

        Raises:
            ValueError: there are several networks, it lacks what a metric wants, or is no such file.
        """
        if len(self._networks) > 1:
            raise ValueError(f"--real={path} holds statistics of one network: give one in --features.")
        statistics = load_statistics(path)
        if self._wants("real") and statistics.vectors is None:
            wanting = [name for name in self._metrics if "real" in METRICS[name].wants]
            raise ValueError(
                f"--real={path} keeps moments alone, but --metrics={','.join(wanting)} wants all features: "
                "give the images, or statistics written with these metrics."
            )
        return [statistics]

    def __call__(self, images: Images, real: Sequence[Statistics]) -> Evaluation:
        """Measures generated images against what `real` or `real_of_file` gave.

        Raises:
            ValueError: the two sets cannot be compared; names what differs.
        """
        self.check_counts(len(images), None)
        estimates: dict[str, Estimate] = {}
        remarks: list[str] = []
        found = []
        for network, reference in zip(self._networks, real, strict=True):
            observed = Observed(images)
            observed[0]  # what cannot be compared is told before all are drawn
            compared(Origin.of(network, observed, ""), reference, network.width)
            fake = self._collect(network, observed, "", "fake")
            remarks += compared(fake.origin, reference, network.width) + self._few(fake, reference)
            found.append(fake)
            for name in self._metrics:
                metric = METRICS[name]
                if "logits" in metric.wants and fake.logits is None:
                    continue  # another network has them
                for part, estimate in metric.compute(fake, reference, self._seed).items():
                    estimates[f"{part}_{network.name}"] = estimate
        return Evaluation(estimates, len(images), real[0].origin.num_images, remarks, found)

    def _few(self, fake: Statistics, real: Statistics) -> list[str]:
        """Remarks on images that are too few for a covariance, if a metric has one."""
        if not {"fd", "fd_infinity"} & set(self._metrics):
            return []
        width = len(real.moments.mean)
        counts = {"generated": fake.origin.num_images, "real": real.origin.num_images}
        return [
            f"There are fewer {which} images ({count}) than features ({width}): fd is far too high, kd not."
            for which, count in counts.items()
            if 0 < count < width
        ]

    def _bar(self, what: str) -> Progress:
        def progress(items: Any, total: int) -> Any:
            return self._progress(items, total=total, desc=what, unit="image")

        return progress

    def _collect(self, network: Network, images: Observed, digest: str, which: str) -> Statistics:
        batches = features_of(network, images, **self._options)

        def counted() -> Any:
            done = iter(self._bar(f"{network.name}, {which}")(range(len(images)), total=len(images)))
            for batch in batches:
                for _ in range(len(batch.features)):
                    next(done)
                yield batch
            next(done, None)  # the bar ends

        keep_logits = which == "fake" and network.has_logits and self._wants("logits")
        return collect(counted(), self._wants(which), keep_logits, lambda: Origin.of(network, images, digest))

    def _cached(self, network: Network, images: Observed, digest: str) -> Statistics:
        if self._cache is None:
            return self._collect(network, images, digest, "real")
        origin = Origin.of(network, images, digest)
        path = self._cache / "_".join([origin.features, origin.weights, origin.resizer, f"{digest}.npz"])
        if path.exists():
            try:
                statistics = load_statistics(str(path))
            except ValueError:
                pass  # damaged: made anew
            else:
                enough = statistics.vectors is not None or not self._wants("real")
                if statistics.origin == origin and enough:
                    return statistics
        statistics = self._collect(network, images, digest, "real")
        try:
            save_statistics(str(path), statistics)
        except OSError as error:
            say(f"NOT KEPT: statistics of the real images in {path} ({error}). They are made anew next time.")
        return statistics


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises ValueError for names that are none of METRICS, or for none at all."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"--metrics should be of {', '.join(METRICS)}, but got {','.join(metrics)!r}.")
