"""Encoders against the reference implementation of the checkpoint format."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import torch
import transformers

from smyrf_jax import Dense, Method, Smyrf
from transformer.classifier import Classifier
from transformer.pretrained import load_encoder, read_config
from transformer.weights import folder_of, tensor_name

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "hidden_act": "gelu",
}
MODELS = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
    "camembert": (transformers.CamembertConfig, transformers.CamembertModel),
}


def random_checkpoint(folder, model_type, **changes):
    """Writes a checkpoint of random weights, large enough to tell faults; returns the reference model."""
    torch.manual_seed(0)
    config_class, model_class = MODELS[model_type]
    model = model_class(config_class(**SIZES, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def batch_of(pad):
    """Tokens of three lengths, padded."""
    kept = np.arange(12) < np.array([12, 7, 1])[:, None]
    tokens = np.random.default_rng(0).integers(5, 50, kept.shape)
    return np.where(kept, tokens, pad), kept


def reference_of(model, tokens, kept, **others):
    with torch.no_grad():
        return model(
            torch.tensor(tokens),
            attention_mask=torch.tensor(kept.astype(int)),
            output_hidden_states=True,
            **{name: torch.tensor(value) for name, value in others.items()},
        )


@pytest.mark.parametrize("model_type", list(MODELS))
def test_hidden_states_are_those_of_the_reference(model_type, tmp_path):
    model = random_checkpoint(tmp_path, model_type)
    tokens, kept = batch_of(model.config.pad_token_id)
    others = {}
    if model_type == "bert":
        others["token_type_ids"] = (np.arange(12) > 4).astype(int)[None].repeat(3, 0)
    expected = reference_of(model, tokens, kept, **others)
    encoder, params, tokenizer = load_encoder(tmp_path)
    assert tokenizer is None
    output, variables = encoder.apply(
        {"params": params},
        tokens,
        jnp.asarray(kept),
        others.get("token_type_ids"),
        mutable="intermediates",
    )
    hidden = variables["intermediates"]["encoder"]["hidden"]
    assert len(hidden) == 2
    for ours, theirs in zip(hidden, expected.hidden_states[1:], strict=True):
        np.testing.assert_allclose(ours[kept], theirs.numpy()[kept], atol=1e-4)
    np.testing.assert_allclose(output.tokens[kept], expected.last_hidden_state.numpy()[kept], atol=1e-4)
    np.testing.assert_allclose(output.pooled, expected.pooler_output.numpy(), atol=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_positions_are_those_of_the_reference_wherever_padding_is(model_type, tmp_path):
    """BERT counts places; RoBERTa the tokens that are no padding, whatever is masked."""
    model = random_checkpoint(tmp_path, model_type)
    pad = model.config.pad_token_id
    tokens = np.random.default_rng(0).integers(5, 50, (4, 12))
    kept = np.ones(tokens.shape, bool)
    tokens[0, :5], kept[0, :5] = pad, False  # on the left
    kept[1, 3:6] = False  # tokens that are masked
    tokens[2, 4] = pad  # padding that is kept
    tokens[3, 8:], kept[3, 6:] = pad, False  # masked before it begins
    expected = reference_of(model, tokens, kept).last_hidden_state.numpy()
    encoder, params, _ = load_encoder(tmp_path)
    output = encoder.apply({"params": params}, tokens, jnp.asarray(kept))
    np.testing.assert_allclose(output.tokens[kept], expected[kept], atol=1e-4)
    # The reference's "first" is padding in the first text; ours is the first token that is kept.
    np.testing.assert_allclose(output.first, expected[np.arange(4), [5, 0, 0, 0]], atol=1e-4)


def test_minilm_is_the_reference():
    folder = folder_of("minilm")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoder, params, tokenizer = load_encoder(folder)
    ids = [tokenizer.encode(text).ids for text in ("Attention costs N squared.", "A cat", "")]
    length = max(map(len, ids))
    tokens = np.array([row + [0] * (length - len(row)) for row in ids])
    kept = np.arange(length) < np.array([len(row) for row in ids])[:, None]
    expected = reference_of(model, tokens, kept)
    output = encoder.apply({"params": params}, tokens, jnp.asarray(kept))
    np.testing.assert_allclose(output.tokens[kept], expected.last_hidden_state.numpy()[kept], atol=1e-4)


@pytest.mark.parametrize("model_type", list(MODELS))
def test_a_classifier_is_that_of_the_reference(model_type, tmp_path):
    torch.manual_seed(0)
    config_class = MODELS[model_type][0]
    reference_class = {
        "bert": transformers.BertForSequenceClassification,
        "roberta": transformers.RobertaForSequenceClassification,
        "xlm-roberta": transformers.XLMRobertaForSequenceClassification,
        "camembert": transformers.CamembertForSequenceClassification,
    }[model_type]
    model = reference_class(config_class(**SIZES, num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    tokens, kept = batch_of(model.config.pad_token_id)
    expected = reference_of(model, tokens, kept).logits.numpy()
    encoder, encoder_params, _ = load_encoder(tmp_path)
    classifier = Classifier(encoder.config, 3)
    weights = safetensors.flax.load_file(tmp_path / "model.safetensors")
    template = jax.eval_shape(classifier.init, jax.random.key(0), tokens)["params"]

    def head(path, leaf):
        keys = tuple(entry.key for entry in path)
        tensor = weights[tensor_name(("classifier", *keys))]
        return tensor.T if keys[-1] == "kernel" else tensor

    params = {
        "bert" if model_type == "bert" else "roberta": encoder_params,
        "classifier": jax.tree_util.tree_map_with_path(head, template["classifier"]),
    }
    chex.assert_trees_all_equal_shapes(params, template)
    logits = classifier.apply({"params": params}, tokens, jnp.asarray(kept))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_positions_are_interpolated_for_longer_texts(tmp_path):
    model = random_checkpoint(tmp_path, "roberta")
    encoder, params, _ = load_encoder(tmp_path, max_length=60)
    first = model.config.pad_token_id + 1
    trained = model.embeddings.position_embeddings.weight.detach().numpy()
    longer = params["embeddings"]["position_embeddings"]["embedding"]
    assert longer.shape == (first + 60, 16)
    np.testing.assert_array_equal(longer[:first], trained[:first])
    np.testing.assert_allclose(longer[[first, -1]], trained[[first, -1]], rtol=1e-6)
    step = (20 - first - 1) / 59
    between = (1 - step) * trained[first] + step * trained[first + 1]
    np.testing.assert_allclose(longer[first + 1], between, rtol=1e-5)
    tokens = np.full((1, 60), 7)
    assert encoder.apply({"params": params}, tokens).tokens.shape == (1, 60, 16)
    short, params, _ = load_encoder(tmp_path)
    with pytest.raises(ValueError, match="positions for 18 tokens, but got 60; load it with max_length=60"):
        short.apply({"params": params}, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("encoder.layer.1.output.dense.bias"),
            "encoder.layer.1.output.dense.bias is missing",
        ),
        (lambda w: w.update(extra=w["pooler.dense.bias"]), "extra is left over"),
        (
            lambda w: w.update({"pooler.dense.bias": w["pooler.dense.weight"]}),
            r"pooler.dense.bias is \(16, 16\), not \(16,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
    random_checkpoint(tmp_path, "bert")
    weights = safetensors.flax.load_file(tmp_path / "model.safetensors")
    change(weights)
    safetensors.flax.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_encoder(tmp_path)


def test_missing_files_and_unknown_architectures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_encoder(tmp_path)
    random_checkpoint(tmp_path, "bert")
    fields = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "t5"}, "model_type should be one of .*'bert', .*'roberta'.*'t5'"),
        ({"num_attention_heads": 3}, "num_attention_heads should divide hidden_size, .* are 3 and 16"),
        ({"hidden_act": "tanh"}, "hidden_act should be one of"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type should be"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=message):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "vocab_size"}))
    with pytest.raises(ValueError, match="the field 'vocab_size' is missing"):
        load_encoder(tmp_path)


def test_fields_may_be_left_out_or_null(tmp_path):
    for model_type, pad in (("bert", 0), ("roberta", 1), ("camembert", 1)):
        random_checkpoint(tmp_path, model_type)
        fields = json.loads((tmp_path / "config.json").read_text())
        expected = read_config(tmp_path)
        assert expected.pad_token_id == pad
        for change in ({"pad_token_id": None}, {"type_vocab_size": None, "position_embedding_type": None}):
            (tmp_path / "config.json").write_text(json.dumps(fields | change), "utf-8-sig")
            assert read_config(tmp_path) == expected


def test_arguments_that_have_no_meaning_are_refused(tmp_path):
    random_checkpoint(tmp_path, "bert")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json cannot be read as a tokenizer: EOF"):
        load_encoder(tmp_path)
    for length in (0, -4):
        with pytest.raises(ValueError, match=f"max_length should be a number of tokens, but got {length}"):
            load_encoder(tmp_path, max_length=length)


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Method):
    """Dense attention that notes the shapes of its queries."""

    shapes: list = dataclasses.field(default_factory=list)

    def attend(self, query, key, value, mask, *, rng, scale, is_causal, query_mask=None):
        self.shapes.append(query.shape)
        return Dense().attend(query, key, value, mask, rng=rng, scale=scale, is_causal=is_causal)


def test_attention_may_differ_by_layer(tmp_path):
    random_checkpoint(tmp_path, "bert")
    tokens, kept = batch_of(0)
    watched = Watched()
    encoder, params, _ = load_encoder(tmp_path, attention=[Dense(), watched])
    encoder.apply({"params": params}, tokens, jnp.asarray(kept))
    assert watched.shapes[-1] == (3, 12, 2, 8)
    assert len(watched.shapes) == 2  # one layer of two: once for the shapes of the weights, once here
    with pytest.raises(ValueError, match="one of each of 2 layers, but got 1"):
        load_encoder(tmp_path, attention=[Dense()])


def test_methods_of_layers_work_under_jit(tmp_path):
    random_checkpoint(tmp_path, "bert")
    tokens, kept = batch_of(0)
    methods = [Smyrf(num_hashes=1, cluster_size=4), Dense()]
    encoder, params, _ = load_encoder(tmp_path, attention=methods)
    expected = encoder.apply({"params": params}, tokens, kept).tokens
    np.testing.assert_allclose(
        jax.jit(encoder.apply)({"params": params}, tokens, kept).tokens, expected, atol=1e-5
    )

    @functools.partial(jax.jit, static_argnums=0)
    def tokens_of(encoder, params):
        return encoder.apply({"params": params}, tokens, kept).tokens

    hashable = encoder.clone(attention=tuple(methods))
    assert hash(hashable) == hash(encoder.clone(attention=(Smyrf(num_hashes=1, cluster_size=4), Dense())))
    np.testing.assert_allclose(tokens_of(hashable, params), expected, atol=1e-5)
    assert np.max(np.abs(expected - tokens_of(encoder.clone(attention=Dense()), params))) > 1e-3


def test_hashing_may_be_drawn_or_fixed(tmp_path):
    random_checkpoint(tmp_path, "bert")
    tokens, kept = batch_of(0)
    encoder, params, _ = load_encoder(tmp_path, attention=Smyrf(num_hashes=1, cluster_size=4))

    def tokens_of(rngs):
        return encoder.apply({"params": params}, tokens, kept, rngs=rngs).tokens

    np.testing.assert_array_equal(tokens_of(None), tokens_of(None))
    drawn = [tokens_of({"hashing": jax.random.key(seed)}) for seed in range(2)]
    assert np.max(np.abs(drawn[0] - drawn[1])) > 1e-3
