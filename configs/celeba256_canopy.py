"""BigGAN on CelebA-HQ at 256x256, attention at 256x256: exact in trees of clusters, estimated elsewhere.

Trees that fit the data capture more attention than sorted hashes do, and keys outside a query's clusters
count by means (smyrf_jax.Canopy): a tree with 1,024 queries and 4 means a cluster, 3.1 %
of the dense pairs instead of 12.5 %. All else is as in configs/celeba256_smyrf.py.

Slice: TPU v3-8. Command:
  python -m biggan.train --config=configs/celeba256_canopy.py --config.data.path=CelebA-HQ-img
Result: not run.
"""

from ml_collections import ConfigDict

from configs import celeba256_smyrf


def get_config() -> ConfigDict:
    config = celeba256_smyrf.get_config()
    config.generator.attention = ConfigDict(
        {"256": {"name": "canopy", "num_trees": 1, "cluster_size": 1024, "means_per_cluster": 4}}
    )
    return config
