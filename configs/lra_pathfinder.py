"""Long Range Arena's Pathfinder with Scatterbrain's settings: 32x32 pictures, 2 layers of 64, 2 heads.

Papers: Long Range Arena (arXiv:2011.04006), section 3.4; Scatterbrain (arXiv:2110.15343), whose public
configs these sizes and this schedule are from. Every attention but the dense has a 16th of the pairs, as
there. Attention weights are not dropped out, which theirs are. Pictures are generated, by a generator of
our own (`transformer/tasks/pathfinder.py`): numbers cannot be compared with those on Long Range Arena's
files.

Variant `small`: 16x16 pictures, lines of 4 dashes, one distractor, an 8th of the pairs.

Command: python -m transformer.train --config=configs/lra_pathfinder.py --config.attention=scatterbrain
  200,000 pictures take half an hour of a CPU core to generate, once.
  Small, all attentions: python -m benchmarks.scratch --tasks=pathfinder
Result: not run, but for trials of the small variant. Dense attention is still at chance there after 600
  steps.
"""

from ml_collections import ConfigDict

from configs import lra_listops

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lra_pathfinder.py:{variant}: the variants are small, and none.")
    config = lra_listops.get_config()
    config.epochs, config.batch_size = 200.0, 512
    config.model.update(
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        attention_size=32,
        intermediate_size=128,
        dropout=0.2,
        pooling="mean",
    )
    config.data = ConfigDict(
        {
            "task": "pathfinder",
            "window": 32,
            "contour": 14,
            "distractors": 5,
            "train_size": 160_000,
            "validation_size": 20_000,
            "test_size": 20_000,
            "folder": "data/lra",
        }
    )
    config.optimizer.update(learning_rate=1e-3, warmup=1 / 200, schedule="cosine", weight_decay=0.0)
    config.evaluate.update(every=3000, batch_size=512, validation_size=2048)
    if variant == "small":
        config.pairs = 1 / 8
        config.num_steps, config.batch_size = 3000, 64
        config.model.update(attention_size=0, dropout=0.0)
        config.data.update(
            window=16, contour=4, distractors=1, train_size=40_000, validation_size=1000, test_size=2000
        )
        config.optimizer.warmup = 0.1
        config.evaluate.update(every=1000, batch_size=64, validation_size=1000)
        config.checkpoint.max_to_keep = 1
    return config
