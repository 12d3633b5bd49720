"""Long Range Arena's Retrieval with Scatterbrain's settings: pairs of papers, 4,000 bytes each, two towers.

Papers: Long Range Arena (arXiv:2011.04006), section 3.2; Scatterbrain (arXiv:2110.15343), whose public
configs these sizes and this schedule are from. Every attention but the dense has a 16th of the pairs, as
there. Attention weights are not dropped out, which theirs are. The files are those of Long Range Arena's
lra_release.

Variant `small`: 1,000 bytes, 2,000 steps of 16 pairs of papers, an 8th of the pairs of tokens.

Command: python -m transformer.train --config=configs/lra_retrieval.py --config.attention=scatterbrain
    --config.data.path=/path/to/tsv_data  (new_aan_pairs.train.tsv, .eval.tsv and .test.tsv)
Result: not run
"""

from ml_collections import ConfigDict

from configs import lra_listops

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lra_retrieval.py:{variant}: the variants are small, and none.")
    config = lra_listops.get_config()
    config.epochs, config.batch_size = 10.0, 32
    config.model.update(
        hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, positions="learned", pooling="mean"
    )
    config.data = ConfigDict(
        {
            "task": "retrieval",
            "path": "",
            "length": 1000 if variant == "small" else 4000,
        }
    )
    config.optimizer.update(learning_rate=0.05 / 8000**0.5, warmup=8000 / 46_000)
    config.evaluate.update(every=4000, batch_size=32, validation_size=2048)
    if variant == "small":
        config.pairs = 1 / 8
        config.num_steps, config.batch_size = 2000, 16
        config.optimizer.update(learning_rate=1e-3, warmup=0.1)
        config.evaluate.update(every=500, validation_size=512)
        config.checkpoint.update(every=500, max_to_keep=1)
    return config
