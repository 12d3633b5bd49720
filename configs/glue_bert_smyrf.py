"""BERT-base on a task of GLUE, with SMYRF attention or dense: the rows of SMYRF's table.

Paper: SMYRF (arXiv:2010.05315), section 4.2. GLUE's average there: dense 82.69 at length 128, 81.57 at 64 and
73.56 at 32; SMYRF at 128 with 2 hashes and clusters of 32 (half the pairs) 82.98, of 16 (a quarter) 81.74.

Command: python -m transformer.finetune --config=configs/glue_bert_smyrf.py:2x32 \
      --config.init=/path/to/bert-base-cased --config.data.path=/path/to/glue --config.data.task=RTE
  Rows: 2x32, 2x16 (SMYRF, 128 tokens), 128, 64, 32 (dense). Tasks: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI,
  RTE, WNLI: folders of that name with TSV files as GLUE distributes them. Tested on the dev files.
Result: not run.
"""

from ml_collections import ConfigDict

from configs import imdb_minilm_smyrf

ROWS = {
    "2x32": (128, {"name": "smyrf", "num_hashes": 2, "cluster_size": 32}),
    "2x16": (128, {"name": "smyrf", "num_hashes": 2, "cluster_size": 16}),
    "128": (128, {"name": "dense"}),
    "64": (64, {"name": "dense"}),
    "32": (32, {"name": "dense"}),
}


def get_config(row: str = "2x32") -> ConfigDict:
    if row not in ROWS:
        raise ValueError(f"configs/glue_bert_smyrf.py:{row}: the rows are {', '.join(ROWS)}.")
    length, attention = ROWS[row]
    config = imdb_minilm_smyrf.get_config()
    config.epochs = 3.0
    config.batch_size = 32
    config.init = "bert-base-cased"  # a folder
    config.attention = row
    config.attentions = ConfigDict({row: attention})
    config.data.source = "glue"
    config.data.path = "glue"
    config.data.task = "RTE"
    config.data.length = length
    config.data.train_size = 0
    config.data.validation_size = 256
    config.data.test_size = 0
    config.optimizer.learning_rate = 2e-5
    config.evaluate.every = 200
    config.evaluate.batch_size = 64
    config.checkpoint.every = 200
    return config
