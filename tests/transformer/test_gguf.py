"""GGUF files that the tests write are read as they were meant."""

import struct

import numpy as np
import pytest
import tokenizers

from tests.transformer.llamas import (
    NUMBERS,
    TOKENIZER,
    WORDS,
    gguf_of,
    quantised,
    random_llama,
    reference_logits,
    write_gguf,
)
from transformer import load_causal
from transformer.gguf import read_gguf

TOKENS = np.random.default_rng(0).integers(0, 64, (2, 20))


@pytest.mark.parametrize("kind", list(NUMBERS))
def test_numbers_are_those_that_were_written(kind, tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 5, 64)).astype(np.float32)
    data, expected = quantised(array, kind)
    for version in (2, 3):
        write_gguf(tmp_path / "a.gguf", {}, {"a": (NUMBERS[kind], array.shape, data)}, version)
        (found,) = read_gguf(tmp_path / "a.gguf").tensors.values()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert np.max(np.abs(found - array)) < {"F32": 1e-9, "F16": 2e-3, "Q8_0": 0.02}.get(kind, 0.35)


def test_metadata_is_what_was_written(tmp_path):
    metadata = {"a": 7, "b": 0.5, "c": True, "d": "ä", "e": ["x", "", "yz"], "f": [1, -2, 3]}
    write_gguf(tmp_path / "a.gguf", metadata, {})
    found = read_gguf(tmp_path / "a.gguf").metadata
    assert list(found.pop("f")) == metadata.pop("f")
    assert found == metadata


@pytest.mark.parametrize("kind", list(NUMBERS))
@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_is_the_reference(kind, tied, tmp_path):
    if tied and kind != "F16":
        pytest.skip("tied once")
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
    assert isinstance(first, tokenizers.Tokenizer)


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
        ({"tokenizer.ggml.tokens": WORDS[:60]}, "tokens are 60, but token_embd.weight has 64 rows"),
        ({"general.alignment": "x"}, "general.alignment should be a number of bytes"),
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
    for number, name in ((12, "Q4_K"), (30, "BF16"), (99, "99")):
        write_gguf(path, metadata, {"a.weight": (number, (4,), bytes(16))})
        with pytest.raises(ValueError, match=f"the tensor a.weight is of type {name}; read are F32, F16, Q4"):
            load_causal(path)
    write_gguf(path, metadata, {"a.weight": (8, (2, 48), bytes(200))})
    with pytest.raises(ValueError, match="rows of a.weight should be blocks of 32, but are 48"):
        load_causal(path)
    fewer = {name: of for name, of in tensors.items() if name != "blk.1.attn_k.weight"}
    write_gguf(path, metadata, fewer | {"more.weight": (0, (1,), bytes(4))})
    with pytest.raises(ValueError, match="layers.1.self_attn.k_proj.weight is missing; more.weight is left"):
        load_causal(path)
    del fewer["token_embd.weight"]
    write_gguf(path, metadata, fewer)
    with pytest.raises(ValueError, match="the tensor token_embd.weight is missing"):
        load_causal(path)


def test_files_that_are_no_gguf_are_refused(written):
    metadata, tensors, folder = written
    path = folder / "d.gguf"
    with pytest.raises(FileNotFoundError, match="d.gguf is missing"):
        load_causal(path)
    for data in (b"", b"GG", b"<!DOCTYPE html>"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="d.gguf is not a GGUF file"):
            load_causal(path)
    for version, message in ((1, "version 1 of GGUF"), (3 << 24, "big-endian numbers")):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
        with pytest.raises(ValueError, match=message):
            load_causal(path)
    write_gguf(path, metadata | TOKENIZER, tensors)
    data = path.read_bytes()
    for size in (7, 20, 100, 1000, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"cut short: it ends at byte {size}"):
            load_causal(path)
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 77)
    )
    with pytest.raises(ValueError, match="metadata of the unknown type 77"):
        load_causal(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"\xff" + bytes(8))
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_causal(path)
