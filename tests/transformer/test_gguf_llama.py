"""Llamas and tokenizers of GGUF files that the tests write are read as they were meant."""

import numpy as np
import pytest

from tests.transformer.llamas import (
    NUMBERS,
    TOKENIZER,
    WORDS,
    gguf_of,
    random_llama,
    reference_logits,
    write_gguf,
)
from transformer import load_causal

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 20))


@pytest.mark.parametrize(("kind", "tied"), [*((kind, False) for kind in NUMBERS), ("F16", True)])
def test_a_llama_is_the_reference(kind, tied, tmp_path):
    reference = random_llama(tmp_path, tie_word_embeddings=tied)
    write_gguf(tmp_path / "a.gguf", *gguf_of(reference, kind))
    model, params, tokenizer = load_causal(tmp_path / "a.gguf")
    assert tokenizer is None
    assert model.config.tie_word_embeddings == tied
    logits = model.apply({"params": params}, TOKENS)
    np.testing.assert_allclose(logits, reference_logits(reference, TOKENS), atol=1e-4)


def test_rotations_may_be_slower(tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    reference = random_llama(tmp_path, rope_parameters=rope)
    expected = reference_logits(reference, TOKENS)
    metadata, tensors = gguf_of(reference, "F32")
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_gguf(tmp_path / "a.gguf", metadata | linear, tensors)
    factors = {"rope_freqs.weight": (0, (4,), np.full(4, 2, "<f4").tobytes())}
    write_gguf(tmp_path / "b.gguf", metadata, tensors | factors)
    for name in ("a.gguf", "b.gguf"):
        model, params, _ = load_causal(tmp_path / name)
        np.testing.assert_allclose(model.apply({"params": params}, TOKENS), expected, atol=1e-4)
    write_gguf(tmp_path / "a.gguf", metadata | {"llama.rope.scaling.type": "yarn"}, tensors)
    with pytest.raises(ValueError, match="llama.rope.scaling.type should be .*linear.* but is 'yarn'"):
        load_causal(tmp_path / "a.gguf")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Metadata and tensors of a random model, and a folder."""
    folder = tmp_path_factory.mktemp("gguf")
    return *gguf_of(random_llama(folder), "F16"), folder


def test_texts_are_cut_and_merged(written):
    metadata, tensors, folder = written

    def tokenizer_with(**changes):
        fields = TOKENIZER | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
        write_gguf(folder / "a.gguf", metadata | fields, tensors)
        model, _, tokenizer = load_causal(folder / "a.gguf")
        assert model.config.eos_token_id == (61, 62)
        return tokenizer

    tokenizer = tokenizer_with()
    text = "abc the other's 123.<|endoftext|>er"
    tokens = tokenizer.encode(text)
    digits = ["Ġ", "1", "2", "3", "."]
    others = ["abc", "Ġth", "e", "Ġ", "o", "t", "h", "er", "'s"]
    assert tokens.tokens == [*others, *digits, "<|endoftext|>", "er"]
    assert tokenizer.decode(tokens.ids, skip_special_tokens=False) == text
    assert tokenizer.decode(tokens.ids) == text.replace("<|endoftext|>", "")
    together = tokenizer_with(pre="gpt-2").encode("a 123").tokens
    assert together == ["a", "Ġ", "12", "3"]
    first = tokenizer_with(add_bos_token=True)
    assert first.encode("abc").tokens == ["<|start|>", "abc"]
    assert first.encode("abc", add_special_tokens=False).tokens == ["abc"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "general.architecture should be 'llama', but is 'qwen2'"),
        ({"llama.block_count": None}, "the field llama.block_count is missing"),
        ({"llama.expert_count": 8}, "llama.expert_count should be 0, but is 8"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count should be 8, but is 4"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model should be 'gpt2', but is 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, r"tokenizer.ggml.pre should be .*'smollm'\], but is 'tekken'"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.tokens or tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.merges": ["a q q"]}, "tokenizer.ggml.merges cannot be read"),
        ({"tokenizer.ggml.merges": ["z z"]}, "tokenizer.ggml.merges cannot be read"),
        ({"llama.attention.head_count": 0}, "attention.head_count should be a positive integer, but is 0"),
        ({"llama.embedding_length": "x"}, "embedding_length should be a positive integer, but is 'x'"),
        ({"llama.attention.head_count_kv": 3}, "head_count_kv, 3, should divide 4 heads"),
        ({"llama.attention.key_length": 7}, "key_length should be even, but is 7"),
        ({"tokenizer.ggml.merges": [1, 2]}, "tokenizer.ggml.merges should be strings"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 99},
            "tokenizer.ggml.bos_token_id, 99, is none of the tokens",
        ),
        ({"tokenizer.ggml.tokens": WORDS[:60]}, "tokens are 60, but token_embd.weight has 64 rows"),
    ],
)
def test_what_cannot_be_is_refused(change, message, written):
    metadata, tensors, folder = written
    fields = {name: of for name, of in (metadata | TOKENIZER | change).items() if of is not None}
    write_gguf(folder / "b.gguf", fields, tensors)
    with pytest.raises(ValueError, match=message):
        load_causal(folder / "b.gguf")


def test_tensors_that_do_not_fit_are_named(written):
    metadata, tensors, folder = written
    path = folder / "c.gguf"
    fewer = {name: of for name, of in tensors.items() if name != "blk.1.attn_k.weight"}
    write_gguf(path, metadata, fewer | {"more.weight": (0, (1,), bytes(4))})
    with pytest.raises(ValueError, match="layers.1.self_attn.k_proj.weight is missing; more.weight is left"):
        load_causal(path)
    del fewer["token_embd.weight"]
    write_gguf(path, metadata, fewer)
    with pytest.raises(ValueError, match="the tensor token_embd.weight is missing"):
        load_causal(path)
