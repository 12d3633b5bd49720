"""The Inception-v3 of 2015, whose features the Fréchet Inception distance compares.

Modules are named as the tensors of pytorch-fid's state dict are, so that weights map name to name.
Sources: Szegedy et al. (arXiv:1512.00567); Heusel et al. (arXiv:1706.08500); pytorch-fid
(github.com/mseitzer/pytorch-fid).
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from training.state_dicts import read_state_dict
from training.weights import from_tensors

# Of pt_inception-2015-12-05-6726825d.pth.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_SIDE = 299  # of its images, in pixels

Pool = Callable[[Array], Array]

# The borders do not count, as in TensorFlow.
_mean_pool = functools.partial(
    nn.avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME", count_include_pad=False
)
_max_pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME")
_halving_pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="VALID")


class Branch(NamedTuple):
    """A pool, if any, then convolutions, in the order of `Convolution`'s fields.

    A mapping in the place of one is a fork: all see the same, and their names end in its keys.
    """

    convolutions: tuple[Any, ...]
    pool: Pool | None = None


# Name -> branch, in the order of their channels. Convolutions are numbered where there are several.
Branches = Mapping[str, Branch]
_HALVING = (2, "VALID")  # stride and padding


def _block_a(pooled: int) -> Branches:
    return {
        "branch1x1": Branch(((64, 1, 1),)),
        "branch5x5": Branch(((48, 1, 1), (64, 5, 5))),
        "branch3x3dbl": Branch(((64, 1, 1), (96, 3, 3), (96, 3, 3))),
        "branch_pool": Branch(((pooled, 1, 1),), _mean_pool),
    }


def _block_c(inner: int) -> Branches:
    tall, wide = (inner, 7, 1), (inner, 1, 7)
    return {
        "branch1x1": Branch(((192, 1, 1),)),
        "branch7x7": Branch(((inner, 1, 1), wide, (192, 7, 1))),
        "branch7x7dbl": Branch(((inner, 1, 1), tall, wide, tall, (192, 1, 7))),
        "branch_pool": Branch(((192, 1, 1),), _mean_pool),
    }


def _block_e(pool: Pool) -> Branches:
    fork = {"a": (384, 1, 3), "b": (384, 3, 1)}
    return {
        "branch1x1": Branch(((320, 1, 1),)),
        "branch3x3": Branch(((384, 1, 1), fork)),
        "branch3x3dbl": Branch(((448, 1, 1), (384, 3, 3), fork)),
        "branch_pool": Branch(((192, 1, 1),), pool),
    }


_BLOCKS: Mapping[str, Branches] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": {
        "branch3x3": Branch(((384, 3, 3, *_HALVING),)),
        "branch3x3dbl": Branch(((64, 1, 1), (96, 3, 3), (96, 3, 3, *_HALVING))),
        "branch_pool": Branch((), _halving_pool),
    },
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": {
        "branch3x3": Branch(((192, 1, 1), (320, 3, 3, *_HALVING))),
        "branch7x7x3": Branch(((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, *_HALVING))),
        "branch_pool": Branch((), _halving_pool),
    },
    "Mixed_7b": _block_e(_mean_pool),
    # The paper has a mean here; the network of 2015 a maximum.
    "Mixed_7c": _block_e(_max_pool),
}


class Convolution(nn.Module):
    """A convolution without bias, a batch norm, a ReLU."""

    features: int
    height: int
    width: int
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        hidden = nn.Conv(
            self.features,
            (self.height, self.width),
            self.stride,
            self.padding,
            use_bias=False,
            # A TPU's default of one bfloat16 pass would move the distance.
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(hidden)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(hidden))


class Block(nn.Module):
    """Branches side by side: their channels one after the other."""

    branches: Branches

    @nn.compact
    def __call__(self, images: Array) -> Array:
        outputs = []
        for name, branch in self.branches.items():
            hidden = branch.pool(images) if branch.pool else images
            for number, fork in enumerate(branch.convolutions, 1):
                full_name = f"{name}_{number}" if len(branch.convolutions) > 1 else name
                prongs = fork if isinstance(fork, Mapping) else {"": fork}
                hidden = jnp.concatenate(
                    [Convolution(*of, name=full_name + letter)(hidden) for letter, of in prongs.items()], -1
                )
            outputs.append(hidden)
        return jnp.concatenate(outputs, -1)


class InceptionOutput(NamedTuple):
    """What distances and scores compare.

    features: means over the last block's places.
    logits: of the classes, without the last layer's bias: so the Inception score is made, by its
        first program (github.com/openai/improved-gan) and all that repeat its numbers.
    """

    features: Float[Array, "B 2048"]
    logits: Float[Array, "B 1008"]


class Inception(nn.Module):
    """The network of pytorch-fid's pt_inception-2015-12-05-6726825d.pth, in float32.

    Attributes:
        centre: pixels become (pixel - centre) / centre. 127.5 as in pytorch-fid; 128 as in the
            TensorFlow programs, and with them in clean-fid's mode "clean" and torch-fidelity.
    """

    centre: float = 127.5

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> InceptionOutput:
        """Features and logits of images in 0 .. 255.

        Raises:
            ValueError: they are not of INCEPTION_SIDE by INCEPTION_SIDE pixels.
        """
        if images.shape[1:] != (INCEPTION_SIDE, INCEPTION_SIDE, 3):
            raise ValueError(
                f"images should be [B, {INCEPTION_SIDE}, {INCEPTION_SIDE}, 3], but got {images.shape}: "
                "resize them by one of evaluation.resizers."
            )
        hidden = (images - self.centre) / self.centre
        hidden = Convolution(32, 3, 3, *_HALVING, name="Conv2d_1a_3x3")(hidden)
        hidden = Convolution(32, 3, 3, padding="VALID", name="Conv2d_2a_3x3")(hidden)
        hidden = Convolution(64, 3, 3, name="Conv2d_2b_3x3")(hidden)
        hidden = _halving_pool(hidden)
        hidden = Convolution(80, 1, 1, name="Conv2d_3b_1x1")(hidden)
        hidden = Convolution(192, 3, 3, padding="VALID", name="Conv2d_4a_3x3")(hidden)
        hidden = _halving_pool(hidden)
        for name, branches in _BLOCKS.items():
            hidden = Block(branches, name=name)(hidden)
        features = hidden.mean((1, 2))
        highest = jax.lax.Precision.HIGHEST
        return InceptionOutput(
            features, nn.Dense(1008, use_bias=False, precision=highest, name="fc")(features)
        )


# Counts that the networks do not read, the bias left out of the logits, torchvision's second classifier.
_FOREIGN = re.compile(r".*\.num_batches_tracked$|fc\.bias$|AuxLogits\.")
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def _name_of(path: tuple[str, ...]) -> str:
    *scopes, leaf = path[1:]  # without the collection
    return ".".join([*scopes, _LEAVES.get(leaf, leaf)])


def network_name(sha256: str) -> str:
    """Of the network whose file has this digest: "inception" for the FID's alone."""
    return "inception" if sha256.lower() == INCEPTION_SHA256 else f"inception_{sha256[:8].lower()}"


def load_inception(
    path: str, sha256: str = INCEPTION_SHA256, *, centre: float = 127.5
) -> tuple[Inception, Any, str]:
    """The network with the weights of a state dict, as pytorch-fid has them.

    Args:
        path: a .pth file (wants torch) or an .npz file.
        sha256: its digest. Another network than the FID's has another name, so that its distances
            are never taken for FIDs.
        centre: of the pixels, as `Inception` has it.

    Returns:
        The module; its variables, NumPy arrays in float32; the network's name, "inception" for the
        FID's, "inception_<first 8 digits of the digest>" for others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another digest, cannot be read, or does not fit; it says how.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            f"there is no Inception network {path}: pt_inception-2015-12-05-6726825d.pth is among the "
            "releases of github.com/mseitzer/pytorch-fid, as fid_weights."
        )
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(
            f"the SHA-256 of {path} is {found}, not {sha256}: it is cut, or another network than the "
            f"one wanted. Download it anew, or take it as it is by --inception_sha256={found}: its "
            f"metrics are then named after {network_name(found)}, never FID."
        )
    module = Inception(centre)
    shape = (1, INCEPTION_SIDE, INCEPTION_SIDE, 3)
    template = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    variables = from_tensors(
        template,
        read_state_dict(path),
        name_of=_name_of,
        what="the Inception-v3 of pytorch-fid",
        foreign=_FOREIGN,
        dtype=np.float32,
    )
    return module, variables, network_name(found)
