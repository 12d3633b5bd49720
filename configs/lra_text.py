"""Long Range Arena's Text with Scatterbrain's settings: the sentiment of IMDB's reviews, by 1,000 bytes.

Papers: Long Range Arena (arXiv:2011.04006), section 3.2; Scatterbrain (arXiv:2110.15343), whose public
configs these sizes and this schedule are from. Every attention but the dense has a 16th of the pairs, as
there. Attention weights are not dropped out, which theirs are. The reviews are the 25,000 of a package,
split by hash of the text (70, 10 and 20 per cent); theirs are 25,000 to train on and 25,000 others to test.

Variants: `4000`, bytes of a review, as Long Range Arena has it; `small`, 1,000 bytes, 2 layers of 64 and an
8th of the pairs.

Command: python -m transformer.train --config=configs/lra_text.py --config.attention=scatterbrain
  Your own texts: --config.data.path=/path/to/file.csv (text,label)
  Small, all attentions: python -m benchmarks.scratch --tasks=text
  local and scatterbrain_local want --config.model.pooling=mean: a CLS token would see its window alone.
  canopy wants a little more than a 16th of the pairs of 1,001 tokens: --config.pairs=0.07.
Result: full scale not run; small: docs/results/tables/text.md
"""

from ml_collections import ConfigDict

from configs import lra_listops

VARIANTS = ("", "4000", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lra_text.py:{variant}: the variants are 4000, small, and none.")
    config = lra_listops.get_config()
    config.epochs = 26.0
    config.model.update(hidden_size=256, num_heads=4)
    config.data = ConfigDict(
        {
            "task": "text",
            "path": "",
            "length": 4000 if variant == "4000" else 1000,
            "train_size": 0,
            "validation_size": 0,
            "test_size": 0,
            "folder": "data/lra",
        }
    )
    config.optimizer.update(learning_rate=0.05 / 8000**0.5, warmup=8000 / 20_300)
    config.evaluate.update(every=2000, validation_size=1000)
    if variant == "small":
        config.pairs = 1 / 8
        config.num_steps = 1500
        config.model.update(hidden_size=64, num_layers=2, intermediate_size=128)
        config.data.test_size = 2000
        config.optimizer.update(learning_rate=1e-3, warmup=0.1)
        config.evaluate.update(every=500, validation_size=512)
        config.checkpoint.update(every=500, max_to_keep=1)
    return config
