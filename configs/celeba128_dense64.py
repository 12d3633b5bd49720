"""BigGAN on CelebA-HQ at 128x128, dense attention at 64x64: the baseline of the paper.

Paper: SMYRF (arXiv:2010.05315), section 4.3: FID 26.06 after 120k steps. All but the attention is as
in configs/celeba128_smyrf.py.

Slice: TPU v3-8. Command:
  python -m biggan.train --config=configs/celeba128_dense64.py --config.data.path=CelebA-HQ-img
Result: not run.
"""

from ml_collections import ConfigDict

from configs import celeba128_smyrf


def get_config() -> ConfigDict:
    config = celeba128_smyrf.get_config()
    config.generator.attention = ConfigDict({"64": {"name": "dense"}})
    return config
