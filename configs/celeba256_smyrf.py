"""SMYRF-BigGAN on CelebA-HQ at 256x256, attention at 256x256: 65,536 queries, 16,384 keys.

Paper: SMYRF (arXiv:2010.05315), section 4.3 trained attention at 256x256 on one TPU and gives no
settings. Chosen here:
- 4 hashes of 2,048 queries, as at 128: 32 clusters of 512 keys, 12.5 % of the dense pairs.
- 4 images a core, as at 128: blocks are recomputed in the backward pass, which leaves room
  for larger batches.
- no attention in the discriminator, as at 128, so that the generator's is all that differs.
- an average of the weights (0.9999 from step 20k), as in BigGAN: samples during training, not training.
All else is as in configs/celeba128_smyrf.py.

Slice: TPU v3-8. Command:
  python -m biggan.train --config=configs/celeba256_smyrf.py --config.data.path=CelebA-HQ-img
Result: not run. A core of a v3-8 needs 3.98 GiB of its 15.48 (python -m launch.aot_check).
"""

from ml_collections import ConfigDict

from configs import celeba128_smyrf


def get_config() -> ConfigDict:
    config = celeba128_smyrf.get_config()
    config.generator.resolution = 256
    config.discriminator.resolution = 256
    config.generator.attention = ConfigDict({"256": {"name": "smyrf", "num_hashes": 4, "cluster_size": 2048}})
    config.generator.remat = True
    config.ema.on = True
    return config
