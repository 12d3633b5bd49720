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
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "num_steps": 120_000,
            "batch_size": 4,  # a replica
            "d_steps": 2,
            "accumulation": 1,
            "num_classes": 1,  # more: the data's classes, such as subfolders
            "dtype": "float32",  # of activations: float32, as in the authors' program, or bfloat16
            "generator": {
                "resolution": 128,
                "channels": 96,
                "dim_z": 120,
                "shared_dim": 0,
                "hierarchical": False,
                # Map size -> method of attention; {} at a size takes it away.
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
            "augment": {  # of what the discriminator sees, for small data sets (DiffAugment, ADA)
                "policy": "",  # some of color,translation,cutout; "": off
                "probability": 1.0,  # of each policy for each image; adaptive: at the start (ADA: 0)
                "adaptive": False,  # the probability rises where the discriminator learns by heart
                "target": 0.6,  # of the mean sign of its scores of real images
                "images": 500_000,  # in which the probability can go from 0 to 1
            },
            "data": {
                "source": "",  # photos, folder, tar, tfds, array_record; "": what lies at the path
                "path": "",
                "name": "celeb_a_hq/128",  # of a TFDS data set
                "split": "train",
                "flip": False,
                "skip_corrupt": False,
                "num_threads": 16,
            },
            "init_from": "",  # folder of a run, or PyTorch weights G.pth,D.pth, to begin with
            "evaluate": {  # samples against the data; the numbers of a paper are biggan.evaluate's
                "every": 0,  # steps; 0: at the end alone
                "num": 2048,  # samples
                "num_real": 50_000,  # images of the data at most; 0: all
                "metrics": "fd,kd",  # of biggan.evaluate; "": none
                "features": "dinov2_s14",
                "best": "",  # metric by which checkpoints/best is kept, as kd_dinov2_s14; "": none is
                "inception_weights": "",  # for features=inception
                "inception_sha256": "",  # of that file; "": that of the FID's
                "dinov2_weights": "",  # for the larger ones of DINOv2
            },
            "checkpoint": {"every": 1000, "max_to_keep": 3, "keep_period": 10_000},
            "sample": {"every": 500, "num": 64},
            "log_every": 50,
        }
    )
