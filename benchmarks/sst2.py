"""Does a swapped attention harm the sentiment of sentences? Fine-tunes MiniLM with each, and tests with each.

    python -m benchmarks.sst2 [--seeds=3] [--workdir=runs/sst2] [--out=docs/results/tables]

Trains configs/sst2_minilm_scatterbrain.py with dense, Scatterbrain, SMYRF and canopy attention, from several
seeds, tests each with each, and writes sst2.md. The sentences are Rotten Tomatoes', of which SST-2 of GLUE is
a selection (Scatterbrain, arXiv:2110.15343). Called again it goes on where it was.
"""

from absl import app

from benchmarks.finetuning import Study
from configs import sst2_minilm_scatterbrain

ABOUT = (
    "MiniLM fine-tuned to the sentiment of sentences of Rotten Tomatoes' reviews, which stand in for SST-2;",
    "tested on sentences not trained on. They are short: this tells whether an attention does harm, not what",
    "it saves.",
)

if __name__ == "__main__":
    app.run(Study("sst2", sst2_minilm_scatterbrain.get_config(), ABOUT).run)
