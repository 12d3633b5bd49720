"""MiniLM fine-tuned to the sentiment of IMDB's reviews, 512 tokens, SMYRF attention at half the memory.

Paper: SMYRF (arXiv:2010.05315), section 4.2: BERT and RoBERTa at 512 tokens and half the memory, each tested
with the attention it was trained with and with the other. Here it is the 6-layer MiniLM that a Python package
carries, on a small part of the texts, so that two CPU cores train it in minutes. A batch holds texts of about
one length, padded to 32, 64, 128, 256 or 512 tokens; at 512 there are half of the dense pairs.

Command: python -m transformer.finetune --config=configs/imdb_minilm_smyrf.py
  RoBERTa: --config.init=/path/to/roberta-base --config.data.train_size=0 --config.epochs=3 (not run)
  The four cells of the table, three seeds: python -m benchmarks.imdb
Result: docs/results/tables/imdb.md
What each field is: python -m transformer.finetune --config=configs/imdb_minilm_smyrf.py --help
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "epochs": 1.0,
            "num_steps": 0,
            "batch_size": 16,
            "init": "minilm",
            "attention": "smyrf",
            "attentions": {
                "dense": {"name": "dense"},
                "smyrf": {"name": "smyrf", "num_hashes": 4, "cluster_size": 64},
            },
            "data": {
                "source": "imdb",
                "path": "",
                "task": "",
                "length": 512,
                "train_size": 800,
                "validation_size": 128,
                "test_size": 500,
            },
            "optimizer": {"learning_rate": 1e-4, "warmup": 0.1, "weight_decay": 0.01, "clip": 1.0},
            "evaluate": {"every": 25, "batch_size": 16},
            "checkpoint": {"every": 25, "max_to_keep": 2, "keep_period": 0},
            "log_every": 10,
        }
    )
