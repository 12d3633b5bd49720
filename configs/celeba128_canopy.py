"""BigGAN on CelebA-HQ at 128x128, attention at 128x128: exact in trees of clusters, estimated elsewhere.

Trees that fit the data capture more attention than sorted hashes do, and keys outside a query's clusters
count by means (smyrf_jax.Canopy): a tree with 1,024 queries and 16 means a cluster, 12.5 %
of the dense pairs instead of 50 %. All else is as in configs/celeba128_smyrf.py.

Slice: TPU v3-8. Command:
  python -m biggan.train --config=configs/celeba128_canopy.py --config.data.path=CelebA-HQ-img
Result: not run.
"""

from ml_collections import ConfigDict

from configs import celeba128_smyrf


def get_config() -> ConfigDict:
    config = celeba128_smyrf.get_config()
    config.generator.attention = ConfigDict(
        {"128": {"name": "canopy", "num_trees": 1, "cluster_size": 1024, "means_per_cluster": 16}}
    )
    return config
