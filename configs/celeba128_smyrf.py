"""SMYRF-BigGAN on CelebA-HQ at 128x128, attention at 128x128: 16,384 queries, 4,096 keys.

Paper: SMYRF (arXiv:2010.05315), section 4.3: 4 hashes, clusters of 2,048 queries, half the memory of
dense attention; FID 25.03 after 120k steps, against 26.06 of configs/celeba128_dense64.py. The
settings are those of the authors' TPU program: batch 4 a core on 8 cores, 2 discriminator steps, Adam
(0, 0.999, 1e-6), batch statistics of each core, hinge loss, no average of the weights, no augmentation.
Their D_attn='128' names a stage that the discriminator at 128 does not have, so it has no attention.

Slice: TPU v3-8. Command:
  python -m biggan.train --config=configs/celeba128_smyrf.py --config.data.path=CelebA-HQ-img
Result: not run, but for three steps of batch 2 on a CPU (losses finite, 9.1 GiB).
A core of a v3-8 needs 2.92 GiB of its 15.48 (python -m launch.aot_check).
What each field is: python -m biggan.train --config=configs/celeba128_smyrf.py --help
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "num_steps": 120_000,
            "batch_size": 4,
            "d_steps": 2,
            "accumulation": 1,
            "num_classes": 1,
            "dtype": "float32",
            "generator": {
                "resolution": 128,
                "channels": 96,
                "dim_z": 120,
                "shared_dim": 0,
                "hierarchical": False,
                "attention": {"128": {"name": "smyrf", "num_hashes": 4, "cluster_size": 2048}},
                "bn_eps": 1e-5,
                "sn_eps": 1e-6,
                "cross_replica_bn": False,
                "remat": False,
            },
            "discriminator": {
                "resolution": 128,
                "channels": 96,
                "attention": {},
                "sn_eps": 1e-6,
                "remat": False,
            },
            "adam": {"g_lr": 5e-5, "d_lr": 2e-4, "b1": 0.0, "b2": 0.999, "eps": 1e-6},
            "ortho": {"g": 0.0, "d": 0.0},
            "ema": {"on": False, "decay": 0.9999, "start": 20_000},
            "augment": {
                "policy": "",
                "probability": 1.0,
                "adaptive": False,
                "target": 0.6,
                "images": 500_000,
            },
            "data": {
                "source": "",
                "path": "",
                "name": "celeb_a_hq/128",
                "split": "train",
                "flip": False,
                "skip_corrupt": False,
                "num_threads": 16,
            },
            "init_from": "",
            "evaluate": {
                "every": 0,
                "num": 2048,
                "num_real": 50_000,
                "metrics": "fd,kd",
                "features": "dinov2_s14",
                "best": "",
                "inception_weights": "",
                "inception_sha256": "",
                "dinov2_weights": "",
            },
            "checkpoint": {"every": 1000, "max_to_keep": 3, "keep_period": 10_000},
            "sample": {"every": 500, "num": 64},
            "log_every": 50,
        }
    )
