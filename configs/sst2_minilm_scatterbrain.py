"""MiniLM fine-tuned to the sentiment of sentences, Scatterbrain attention at a quarter to half of the pairs.

Paper: Scatterbrain (arXiv:2110.15343), SST-2 of GLUE: 92.7 % with BERT-base; its settings are not told.
SST-2 is a selection of sentences of Rotten Tomatoes' reviews; what a Python package carries of those (8,530
sentences, half of them positive) takes its place here. Such a sentence is short: 27 tokens at the median, 64
at most here. That attention is hardly long: it tells whether a method does harm, not what it saves. A batch
holds sentences padded to 32 tokens, where there are half of the dense pairs, or to 64, where a quarter.

Command: python -m transformer.finetune --config=configs/sst2_minilm_scatterbrain.py
  GLUE's own: --config.data.source=glue --config.data.path=/path/to/glue --config.data.task=SST-2
      --config.data.test_size=0 --config.init=/path/to/bert-base-uncased --config.data.train_size=0 (not run)
  Every attention, several seeds: python -m benchmarks.sst2
Result: docs/results/tables/sst2.md
"""

from ml_collections import ConfigDict

from configs import imdb_minilm_smyrf


def get_config() -> ConfigDict:
    config = imdb_minilm_smyrf.get_config()
    config.attention = "scatterbrain"
    config.attentions = ConfigDict(
        {
            "dense": {"name": "dense"},
            "scatterbrain": {"name": "scatterbrain", "num_hashes": 2, "cluster_size": 4, "num_features": 4},
            "smyrf": {"name": "smyrf", "num_hashes": 2, "cluster_size": 8},
            "canopy": {"name": "canopy", "num_trees": 1, "cluster_size": 8, "means_per_cluster": 1},
        }
    )
    config.data.source = "rotten_tomatoes"
    config.data.length = 64
    config.data.train_size = 1280
    config.data.test_size = 500
    config.evaluate.batch_size = 32
    return config
