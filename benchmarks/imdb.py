"""Are attentions interchangeable? Fine-tunes MiniLM to IMDB with each, and tests it with each.

    python -m benchmarks.imdb [--workdir=runs/imdb] [--out=docs/results/tables]

Trains configs/imdb_minilm_smyrf.py with dense and with SMYRF attention, from several seeds, and writes the
four cells of SMYRF's table (arXiv:2010.05315, section 4.2) to imdb.md; and tests the weights trained with
dense attention with fewer pairs. Half an hour of two CPU cores. Called again it goes on where it was.
"""

from typing import Any

from absl import app

from benchmarks.finetuning import Study
from configs import imdb_minilm_smyrf

# For weights that were trained with dense attention: an eighth of the pairs of 512 tokens.
SWAPPED: dict[str, dict[str, Any]] = {
    "smyrf": {"name": "smyrf", "num_hashes": 4, "cluster_size": 16},
    "scatterbrain": {"name": "scatterbrain", "num_hashes": 2, "cluster_size": 16, "num_features": 32},
    "canopy": {"name": "canopy", "num_trees": 1, "cluster_size": 32, "means_per_cluster": 2},
}
ABOUT = ("MiniLM fine-tuned to the sentiment of IMDB's reviews, tested on texts not trained on.",)

if __name__ == "__main__":
    app.run(Study("imdb", imdb_minilm_smyrf.get_config(), ABOUT, SWAPPED).run)
