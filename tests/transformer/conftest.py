"""Checkpoints of tiny encoders, with a tokenizer."""

import pytest
import tokenizers
import torch
import transformers

from tests.transformer.llamas import write_llama
from transformer import load_causal

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "good",
    "fine",
    "great",
    "bad",
    "poor",
    "awful",
    "film",
    "plot",
    "the",
    "a",
    "was",
    "is",
    "it",
    "not",
    "cat",
    "dog",
    "sat",
]


def write_checkpoint(folder, model_type):
    """Writes a random encoder of 32 positions, whose padding is token 0."""
    torch.manual_seed(0)
    config_class, model_class = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    }[model_type]
    config = config_class(
        vocab_size=len(SPECIAL) + len(WORDS),
        pad_token_id=0,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=33 if model_type == "roberta" else 32,
        hidden_dropout_prob=0.1,
    )
    model_class(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """The folder of a random BERT."""
    return write_checkpoint(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory):
    """The folder of a random RoBERTa."""
    return write_checkpoint(tmp_path_factory.mktemp("roberta"), "roberta")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A random causal language model with a tokenizer of 64 words."""
    return load_causal(write_llama(tmp_path_factory.mktemp("llama") / "tiny.gguf"))
