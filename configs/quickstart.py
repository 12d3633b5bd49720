"""A small BigGAN on crops of four photographs, 64x64, with SMYRF attention at 64x64: 4,096 queries.

For a first try on a laptop: under five minutes on two CPU cores, data included. It learns colours and
textures, not objects.

configs/quickstart.py:dense and :canopy have another attention at 64x64.

Command: make quickstart
Result: 2 min 39 s; colours and textures of the four photographs (docs/results/tables/quickstart_samples.png).
"""

from ml_collections import ConfigDict

from configs import celeba128_smyrf

# Of 4,096 queries and 1,024 keys.
ATTENTIONS = {
    "smyrf": {"name": "smyrf", "num_hashes": 2, "cluster_size": 256},
    "canopy": {"name": "canopy", "num_trees": 1, "cluster_size": 256, "means_per_cluster": 4},
    "dense": {"name": "dense"},
}


def get_config(attention: str = "smyrf") -> ConfigDict:
    if attention not in ATTENTIONS:
        raise ValueError(f"configs/quickstart.py:{attention}: the attentions are {', '.join(ATTENTIONS)}.")
    config = celeba128_smyrf.get_config()
    config.num_steps = 300
    config.batch_size = 8
    config.d_steps = 1
    config.generator.resolution = 64
    config.discriminator.resolution = 64
    config.generator.channels = 16
    config.discriminator.channels = 16
    config.generator.dim_z = 64
    config.generator.attention = ConfigDict({"64": ATTENTIONS[attention]})
    config.adam.g_lr = 2e-4
    config.adam.d_lr = 2e-4
    config.ema.on = True
    config.ema.decay = 0.99
    config.ema.start = 50
    config.data.source = "photos"
    config.data.flip = True
    config.data.num_threads = 2
    config.evaluate.every = 150
    config.evaluate.num = 128
    config.evaluate.metrics = "kd"
    config.evaluate.best = "kd_dinov2_s14"
    config.checkpoint.every = 100
    config.checkpoint.keep_period = 0
    config.sample.every = 100
    config.sample.num = 36
    config.log_every = 10
    return config
