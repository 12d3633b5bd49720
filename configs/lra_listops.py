"""Long Range Arena's ListOps with Scatterbrain's settings: 500 to 2,000 tokens, 4 layers of 512, 8 heads.

Papers: Long Range Arena (arXiv:2011.04006), section 3.1; Scatterbrain (arXiv:2110.15343), whose public
configs these sizes and this schedule are from. Every attention but the dense has a 16th of the pairs, as
there. Attention weights are not dropped out, which theirs are. Expressions are generated
(`transformer/tasks/listops.py`).

The task does not test what is far away: the root's operator alone tells more than a third of the values,
and with the digits among its arguments nearly half. results.json has both, of the same test part.

Variant `small`: 100 to 512 tokens, 2 layers of 64, an 8th of the pairs: with a 16th of so few tokens Canopy
has no means.

Command: python -m transformer.train --config=configs/lra_listops.py --config.attention=scatterbrain
  Small, all attentions: python -m benchmarks.scratch --tasks=listops
  local and scatterbrain_local want --config.model.pooling=mean: a CLS token would see its window alone.
Result: full scale not run; small: docs/results/tables/listops.md
What each field is: python -m transformer.train --config=configs/lra_listops.py --help
"""

from ml_collections import ConfigDict

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lra_listops.py:{variant}: the variants are small, and none.")
    config = ConfigDict(
        {
            "seed": 0,
            "epochs": 10.0,
            "num_steps": 0,
            "batch_size": 32,
            "attention": "scatterbrain",
            "pairs": 1 / 16,
            "attentions": {
                "dense": {"name": "dense"},
                "scatterbrain": {"name": "scatterbrain", "num_hashes": 2},
                "scatterbrain_local": {"name": "scatterbrain", "window_share": 0.5},
                "smyrf": {"name": "smyrf", "num_hashes": 2},
                "reformer": {"name": "reformer", "num_hashes": 1},
                "performer": {"name": "performer"},
                "local": {"name": "local"},
                "canopy": {"name": "canopy"},
            },
            "model": {
                "hidden_size": 512,
                "num_layers": 4,
                "num_heads": 8,
                "attention_size": 0,
                "intermediate_size": 1024,
                "dropout": 0.1,
                "positions": "sinusoidal",
                "pooling": "cls",
            },
            "data": {
                "task": "listops",
                "min_length": 500,
                "max_length": 2000,
                "max_depth": 10,
                "max_args": 10,
                "train_size": 96_000,
                "validation_size": 2000,
                "test_size": 2000,
                "folder": "data/lra",
            },
            "optimizer": {
                "learning_rate": 0.05 / 1000**0.5,
                "warmup": 1000 / 30_000,
                "schedule": "invsqrt",
                "weight_decay": 0.1,
                "b2": 0.98,
                "clip": 1.0,
            },
            "evaluate": {"every": 3000, "batch_size": 32, "validation_size": 2000},
            "checkpoint": {"every": 1000, "max_to_keep": 2, "keep_period": 0},
            "log_every": 100,
        }
    )
    if variant == "small":
        config.pairs = 1 / 8
        config.num_steps = 3000
        config.model.update(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128)
        config.data.update(min_length=100, max_length=512)
        config.optimizer.update(learning_rate=1e-3, warmup=0.1)
        config.evaluate.update(every=1000, validation_size=512)
        config.checkpoint.max_to_keep = 1
    return config
