"""The shapes of TPU slices, as v5e:4x4: chips side by side, a few of them a host."""

import math
import re
from typing import Any, NamedTuple

# Axes of a slice's shape, by the chip.
_AXES = {"v2": (2,), "v3": (2,), "v4": (2, 3), "v5e": (2,), "v5p": (2, 3), "v6e": (2,)}


class Topology(NamedTuple):
    """A slice: `layout` chips of a kind.

    chips_per_host: axis by axis.
    """

    chip: str
    layout: tuple[int, ...]
    chips_per_host: tuple[int, ...]

    @property
    def shape(self) -> str:
        """As GKE writes it, 4x4."""
        return "x".join(map(str, self.layout))

    @property
    def num_chips_per_host(self) -> int:
        return math.prod(self.chips_per_host)

    @property
    def num_hosts(self) -> int:
        return math.prod(self.layout) // self.num_chips_per_host

    def devices(self) -> list[Any]:
        """What JAX calls devices, of all hosts, for the compiler: none of them is there.

        A core each on v2 and v3; a chip each on the others.
        """
        # Here: the manifest of a job wants no JAX.
        from jax.experimental import topologies

        bounds = (*self.chips_per_host, 1, 1)[:3]
        # Else v4 counts its cores; a v4 slice has its two cores as one.
        options = {"chip_config_name": "megacore"} if self.chip == "v4" else {}
        name = f"{self.chip}:{self.shape}"
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=bounds, **options
        )
        return list(found.devices)


def parse(text: str) -> Topology:
    """Reads v5e:4x4. A host has 2x2 chips, but 1x1 and 2x4 of v5e and v6e are one host's.

    Raises:
        ValueError: it is no slice; says what one is.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    if found is None or found.group(1) not in _AXES:
        raise ValueError(
            f"topology {text!r} should be a chip ({', '.join(_AXES)}) and the shape of the slice, as v3:2x2, "
            f"v5e:4x4, v4:2x2x4."
        )
    chip, layout = found.group(1), tuple(map(int, found.group(2).split("x")))
    axes = _AXES[chip]
    if len(axes) == 2 and len(layout) == 2:
        layout = (*layout, 1)
    if len(layout) not in axes:
        raise ValueError(f"topology {text!r}: a slice of {chip} has {' or '.join(map(str, axes))} axes.")
    if chip in ("v5e", "v6e") and layout in ((1, 1), (2, 4)):
        return Topology(chip, layout, layout)
    if layout[0] < 2 or layout[1] < 2 or layout[0] % 2 or layout[1] % 2 or 0 in layout:
        raise ValueError(
            f"topology {text!r}: the hosts of {chip} have 2x2 chips, so the first two numbers should be even."
        )
    return Topology(chip, layout, (2, 2))
