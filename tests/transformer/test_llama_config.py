"""Configs of Llamas, in the fields of today and of before."""

import json
import math

import numpy as np
import pytest

from tests.transformer.llamas import random_llama
from transformer.llama_config import read_llama_config


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
    assert read_llama_config(tmp_path).eos_token_id == (3, 7, 9)


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
        read_llama_config(tmp_path)
