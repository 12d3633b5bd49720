"""Images of a generator that biggan.export wrote, with JAX alone: python sample_exported.py FOLDER OUT.png"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from PIL import Image

folder, out = pathlib.Path(sys.argv[1]), sys.argv[2]
config = json.loads((folder / "config.json").read_text())
generator = export.deserialize(bytearray((folder / "generator.jax_export").read_bytes()))
num, width = generator.in_avals[0].shape
num = num if isinstance(num, int) else 16  # of a program of any batch
cut = config["truncation"] or np.inf
noise = jax.random.truncated_normal(jax.random.key(0), -cut, cut, (num, width))
labels = np.arange(num, dtype=np.int32) % config["generator"]["num_classes"]
images = np.asarray(jax.jit(generator.call)(noise, labels))
Image.fromarray(np.concatenate(images, axis=1)).save(out)
