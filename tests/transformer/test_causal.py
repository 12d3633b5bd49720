"""Checkpoints of causal language models: configs, positions, and what does not fit."""

import json
import math

import numpy as np
import pytest
import safetensors.flax
import torch
import transformers

from tests.transformer.llamas import random_llama, reference_logits
from transformer import load_causal
from transformer.causal import llama_params
from transformer.gguf import read_gguf
from transformer.gguf_llama import config_of, weights_of
from transformer.llama_config import read_llama_config
from transformer.weights import folder_of


def test_positions_are_interpolated_for_longer_texts(tmp_path):
    random_llama(tmp_path)
    model, params, _ = load_causal(tmp_path, max_length=160)
    short = load_causal(tmp_path, max_length=64).model
    assert short.config.rope_factors == ()
    np.testing.assert_allclose(model.config.frequencies(), short.config.frequencies() / 2.5)
    tokens = np.random.default_rng(0).integers(0, 64, (1, 160))
    fields = json.loads((tmp_path / "config.json").read_text())
    linear = {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}
    fields |= {"rope_parameters": linear, "max_position_embeddings": 160}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    reference = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    logits = model.apply({"params": params}, tokens)
    np.testing.assert_allclose(logits, reference_logits(reference, tokens), atol=1e-4)


def test_older_and_newer_fields_say_the_same(tmp_path):
    random_llama(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["rope_parameters"]
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    configs = []
    for change in (
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **scaling}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **scaling}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        configs.append(read_llama_config(tmp_path))
    assert configs[0] == configs[1]
    turns = 32 * 500.0 ** (-np.arange(4) / 4) / (2 * math.pi)
    assert turns[0] > 4 > turns[1] > 1 > turns[2]
    between = (turns[1] - 1) / 3
    expected = [1, 1 / ((1 - between) / 32 + between), 32, 32]
    np.testing.assert_allclose(configs[0].rope_factors, expected, rtol=1e-6)


def test_texts_may_end_in_several_ways(tmp_path):
    random_llama(tmp_path, eos_token_id=[7, 3])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    assert load_causal(tmp_path).model.config.eos_token_id == (3, 7, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, "model_type should be 'llama', but is 'qwen2'"),
        ({"hidden_act": "tanh"}, "hidden_act should be one of"),
        ({"num_key_value_heads": 3}, "num_key_value_heads should divide num_attention_heads, .* 3 and 4"),
        ({"hidden_size": 33, "head_dim": None}, "num_attention_heads should divide hidden_size, .* 4 and 33"),
        ({"vocab_size": None}, "the field 'vocab_size' is missing"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type should be one of .* 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' wants the field 'factor'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor should be 1"),
    ],
)
def test_configs_that_cannot_be_are_refused(change, message, tmp_path):
    random_llama(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | change))
    with pytest.raises(ValueError, match=message):
        load_causal(tmp_path)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_causal(tmp_path)
    random_llama(tmp_path)
    with pytest.raises(ValueError, match="max_length should be a number of tokens, but got 0"):
        load_causal(tmp_path, max_length=0)
    weights = safetensors.flax.load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["extra"] = weights["model.norm.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = weights["model.norm.weight"]
    safetensors.flax.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj.weight is missing; extra is left over.$"):
        load_causal(tmp_path)


@pytest.fixture(scope="module")
def smollm2():
    return load_causal("smollm2")


TEXT = (
    "In 1984 it's 25,000 words—naïve, isn't it?\n\n  def f(x):\n\treturn x**2  # done\n"
    "Die Würde des Menschen; 日本語 too."
)


def test_smollm2_reads_and_writes_texts(smollm2):
    tokenizer = smollm2.tokenizer
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.decode(tokens.ids) == TEXT
    assert tokens.tokens[2:6] == ["1", "9", "8", "4"]  # every digit by itself
    assert tokenizer.encode("<|im_start|>user").ids[0] == 1
    assert tokenizer.decode([1, 4093], skip_special_tokens=True) == tokenizer.decode([4093])


@pytest.mark.slow
def test_smollm2_is_the_reference(smollm2):
    model, params, tokenizer = smollm2
    file = read_gguf(folder_of("smollm2"))
    config = config_of(file, "smollm2")
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
        )
    ).eval()
    weights = {f"model.{name}": torch.tensor(of) for name, of in weights_of(file, config).items()}
    missing = reference.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["lm_head.weight"]
    assert not missing.unexpected_keys
    reference.tie_weights()
    tokens = np.array([tokenizer.encode(TEXT * 4).ids])
    logits = model.apply({"params": params}, tokens)
    np.testing.assert_allclose(logits, reference_logits(reference, tokens), atol=1e-3)
    again = llama_params(config, weights_of(file, config))
    np.testing.assert_array_equal(again["norm"]["scale"], params["norm"]["scale"])
    # English is far likelier than chance, 10.8 nats: the weights are read as they are meant.
    ids = np.array([tokenizer.encode("Once upon a time, there was a little girl who lived in a").ids])
    assert np.mean(model.apply({"params": params}, ids, method="predictions").losses[:, 3:]) < 2
