"""The copying task: "0 w 0 w", 256 tokens, w of 127 random symbols; a decoder of two layers.

Paper: Scatterbrain (arXiv:2110.15343), section 5, which reports perplexities of the copied half, of a model
and a length that it does not tell. Here the model is small enough for two CPU cores. Chance is 16. Every
attention but the dense has a 16th of the pairs. The clusters of smyrf and scatterbrain_clusters are cut from
all tokens: no query sees a later key, but which of the earlier ones it sees depends on what comes later.

Variant `small`: a quarter of the pairs. Of a 16th of so few tokens, 8 features or a window of 8 are left, and
CausalCanopy has no settings.

Command: python -m transformer.train --config=configs/copy.py --config.attention=scatterbrain
  All attentions, three seeds: python -m benchmarks.scratch --tasks=copy
Result: docs/results/tables/copy.md
What each field is: python -m transformer.train --config=configs/copy.py --help
"""

from ml_collections import ConfigDict

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/copy.py:{variant}: the variants are small, and none.")
    config = ConfigDict(
        {
            "seed": 0,
            "epochs": 1.0,
            "num_steps": 0,
            "batch_size": 32,
            "attention": "dense",
            "pairs": 1 / 16,
            "attentions": {
                "dense": {"name": "dense"},
                "scatterbrain": {"name": "scatterbrain", "window_share": 0.5},
                "scatterbrain_clusters": {
                    "name": "scatterbrain",
                    "num_hashes": 2,
                    "clusters_see_future": True,
                },
                "smyrf": {"name": "smyrf", "num_hashes": 2, "clusters_see_future": True},
                "performer": {"name": "performer"},
                "local": {"name": "local"},
                "causalcanopy": {"name": "causalcanopy"},
            },
            "model": {
                "hidden_size": 64,
                "num_layers": 2,
                "num_heads": 4,
                "attention_size": 0,
                "intermediate_size": 256,
                "dropout": 0.0,
                "positions": "learned",
            },
            "data": {
                "task": "copy",
                "length": 256,
                "num_symbols": 16,
                "train_size": 48_000,
                "validation_size": 64,
                "test_size": 512,
            },
            "optimizer": {
                "learning_rate": 2e-3,
                "warmup": 0.05,
                "schedule": "cosine",
                "weight_decay": 0.0,
                "b2": 0.98,
                "clip": 1.0,
            },
            "evaluate": {"every": 250, "batch_size": 64, "validation_size": 64},
            "checkpoint": {"every": 500, "max_to_keep": 1, "keep_period": 0},
            "log_every": 50,
        }
    )
    if variant == "small":
        config.pairs = 1 / 4
    return config
