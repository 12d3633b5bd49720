"""A tiny fine-tuning, in one of several processes: python -m tests.transformer.run --workdir=run ..."""

import pathlib

import ml_collections
import numpy as np
from absl import app, flags

from configs import imdb_minilm_smyrf
from training.processes import connect_by_flags
from transformer.finetune import train


def write_reviews(path, number):
    """Reviews of one good or bad word among neutral ones, every fourth of them five times over."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(number):
        words = rng.choice(
            ["film", "plot", "the", "a", "was", "is", "it", "cat", "dog", "sat"], 6 + i % 5
        ).tolist()
        words[rng.integers(6)] = rng.choice(("good", "fine", "great") if i % 2 else ("bad", "poor", "awful"))
        rows.append(f"{' '.join(words * (5 if i % 8 < 2 else 1))},{i % 2}")
    path.write_text("\n".join(["text,label", *rows]))


def tiny_config(init: pathlib.Path, reviews: pathlib.Path) -> ml_collections.ConfigDict:
    config = imdb_minilm_smyrf.get_config()
    config.init = str(init)
    config.batch_size = 8
    config.num_steps = 6
    config.data.path = str(reviews)
    config.data.length = 48
    config.data.train_size, config.data.test_size, config.data.validation_size = 0, 37, 8
    config.attentions.smyrf.update(num_hashes=2, cluster_size=4)
    config.optimizer.learning_rate = 1e-2
    config.evaluate.update(every=3, batch_size=16)
    config.checkpoint.every, config.log_every = 2, 1
    return config


def main(argv: list[str]) -> None:
    connect_by_flags()
    init = pathlib.Path(flags.FLAGS.init)
    train(tiny_config(init, pathlib.Path(flags.FLAGS.reviews)), flags.FLAGS.workdir)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "of the run.", required=True)
    flags.DEFINE_string("init", None, "folder of the pretrained encoder.", required=True)
    flags.DEFINE_string("reviews", None, "CSV of the texts.", required=True)
    app.run(main)
