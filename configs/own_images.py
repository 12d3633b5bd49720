"""A GAN of about a thousand images of one's own, at 64x64 or 128x128, on a laptop or an accelerator.

A discriminator learns so few images by heart. So all that it sees, real and generated, has other colours, is
moved, and has a square cut out (DiffAugment, arXiv:2006.10738); half of the real images are mirrored too.
Where left and right differ, as with letters: --config.data.flip=False.

Command: python -m biggan.train --config=configs/own_images.py:64 --config.data.path=/path/to/images
  64 or 128 is the resolution. The path is a folder, a .tar or .zip file, or what biggan.convert wrote.
  CPU: as it is. On two free cores a step of 8 images at 64x64 takes 0.25 s, and all of them 85 minutes; at
  128x128 it is 2.2 times the work.
  GPU or TPU: --config.batch_size=32 or more a device, of 64 or more in all; for more images an update than
  fit the memory, --config.accumulation=2 (or more) takes as many batches for each. With four times the batch
  a fourth of the steps see as many images: --config.num_steps=5000, and checkpoints and samples as often.
Result: on 56 faces, 3500 steps of 8 images at 64x64 on a CPU (docs/results/tables/augmentation.md): faces
  that are all different, but coarse, and hardly one sample in a hundred memorised. Without augmentation the
  kernel distance is lower and faces are sharper until step 2500; from then on the same few come again and
  again. Not run on a thousand images, nor at 128x128.
"""

from ml_collections import ConfigDict

from configs import quickstart

RESOLUTIONS = ("64", "128")


def get_config(resolution: str = "64") -> ConfigDict:
    if resolution not in RESOLUTIONS:
        raise ValueError(f"configs/own_images.py:{resolution}: the resolutions are {', '.join(RESOLUTIONS)}.")
    config = quickstart.get_config()
    config.num_steps = 20_000
    config.batch_size = 8
    config.generator.resolution = int(resolution)
    config.discriminator.resolution = int(resolution)
    # On maps of 64x64 it makes a step at 64 no more than a tenth dearer than on maps of 32x32.
    config.generator.attention = ConfigDict({"64": {"name": "canopy"}})
    config.adam.d_lr = 4e-4
    config.ema.decay = 0.998  # of some 500 steps
    config.ema.start = 1000
    config.augment.policy = "color,translation,cutout"
    config.evaluate.every = 1000
    config.evaluate.num = 512
    config.evaluate.metrics = "kd,prdc,memorisation"
    config.evaluate.best = "kd_dinov2_s14"
    config.data.source = ""
    config.data.path = ""  # to be given
    config.checkpoint.every = 500
    config.checkpoint.keep_period = 5000
    config.sample.every = 500
    config.log_every = 50
    return config
