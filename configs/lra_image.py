"""Long Range Arena's Image with Scatterbrain's settings: CIFAR-10 in gray, a token a pixel, one layer of 128.

Papers: Long Range Arena (arXiv:2011.04006), section 3.3; Scatterbrain (arXiv:2110.15343), whose public
configs these sizes and this schedule are from. Every attention but the dense has a 16th of the pairs, as
there. Attention weights are not dropped out, which theirs are.

Variant `small`: 2,000 steps of 64 pictures, an 8th of the pairs of tokens.

Command: python -m transformer.train --config=configs/lra_image.py --config.attention=scatterbrain
    --config.data.path=/path/to/cifar-10-batches-bin  (or -py)
  local and scatterbrain_local want --config.model.pooling=mean: a CLS token would see its window alone.
  canopy wants a little more than a 16th of the pairs of 1,025 tokens: --config.pairs=0.07.
Result: not run
"""

from ml_collections import ConfigDict

from configs import lra_listops

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lra_image.py:{variant}: the variants are small, and none.")
    config = lra_listops.get_config()
    config.epochs, config.batch_size = 200.0, 256
    config.model.update(
        hidden_size=128,
        num_layers=1,
        num_heads=8,
        attention_size=64,
        intermediate_size=128,
        dropout=0.3,
        positions="learned",
    )
    config.data = ConfigDict({"task": "image", "path": ""})  # of CIFAR-10's files, to be given
    config.optimizer.update(learning_rate=5e-4, warmup=1 / 200, schedule="cosine", weight_decay=0.0)
    config.evaluate.update(every=2000, batch_size=256, validation_size=2048)
    if variant == "small":
        config.pairs = 1 / 8
        config.num_steps, config.batch_size = 2000, 64
        config.evaluate.update(every=500, batch_size=64, validation_size=512)
        config.checkpoint.update(every=500, max_to_keep=1)
    return config
