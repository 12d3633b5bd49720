"""Channel tables of the BigGAN, and the map sizes that an attention block can stand at."""

from collections.abc import Iterable

# Channel multipliers: of the 4x4 map, then of each block's output, which is twice the size.
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# Channel multipliers of the blocks' outputs, and how many of the blocks, from the first, halve the map.
DISCRIMINATOR = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def check_fields(network: str, resolution: int, attention: Iterable[int]) -> None:
    """Raises ValueError for a resolution without a table, or an attention without a stage.

    network: "generator" or "discriminator". attention: map sizes.
    """
    if resolution not in GENERATOR:
        raise ValueError(f"{network}.resolution should be one of {sorted(GENERATOR)}, but got {resolution}.")
    if network == "generator":
        sizes = {8 << index for index in range(len(GENERATOR[resolution]) - 1)}
    else:
        sizes = {resolution >> (index + 1) for index in range(DISCRIMINATOR[resolution][1])}
    unknown = sorted(set(attention) - sizes)
    if unknown:
        raise ValueError(
            f"{network}.attention names the map size {unknown[0]}, but the blocks of the {network} "
            f"at resolution {resolution} have the sizes {sorted(sizes)}."
        )
