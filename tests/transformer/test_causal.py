"""Checkpoints of causal language models: positions, what does not fit, and a real one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import torch
import transformers

from tests.transformer.llamas import random_llama, reference_logits
from transformer import load_causal
from transformer.gguf import read_gguf
from transformer.gguf_llama import config_of, weights_of
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
    # 30 layers of sums in float32 leave both 1e-3 from what they mean; in float64 both mean the same.
    logits = model.apply({"params": params}, tokens)
    np.testing.assert_allclose(logits, reference_logits(reference, tokens), atol=1e-3)
    with jax.enable_x64(True):
        params64 = jax.tree.map(lambda of: jnp.asarray(np.asarray(of, np.float64)), params)
        logits = model.apply({"params": params64}, jnp.asarray(tokens))
    np.testing.assert_allclose(logits, reference_logits(reference.double(), tokens), atol=1e-4)
    # English is far likelier than chance, 10.8 nats: the weights are read as they are meant.
    ids = np.array([tokenizer.encode("Once upon a time, there was a little girl who lived in a").ids])
    assert np.mean(model.apply({"params": params}, ids, method="predictions").losses[:, 3:]) < 2
