"""What a GGUF file of a Llama holds: config, tensors by Hugging Face's names, tokenizer."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from transformer.gguf import GGUF
from transformer.llama_config import LlamaConfig

_NAMES = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FREQUENCIES = "rope_freqs.weight"

# By the names that files give them: how texts are cut before their bytes are merged.
_PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}
# Kinds of tokens, and tokens that end a text although no field says so.
_CONTROL, _OF_USERS = 3, 4
_ENDS = ("<|endoftext|>", "<|im_end|>")


def config_of(file: GGUF, where: str) -> LlamaConfig:
    """The config of a Llama.

    where: the file, for errors.

    Raises:
        ValueError: the architecture is another, a field is missing, or one is not supported.
    """
    metadata, tensors = file
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{where}: general.architecture should be 'llama', but is {architecture!r}.")

    def field(name: str, otherwise: Any = None) -> Any:
        value = metadata.get(f"llama.{name}", otherwise)
        if value is None:
            raise ValueError(f"{where}: the field llama.{name} is missing.")
        return value

    for name in ("token_embd.weight", "output_norm.weight"):
        if name not in tensors:
            raise ValueError(f"{where}: the tensor {name} is missing.")

    def size(name: str, otherwise: int | None = None) -> int:
        value = field(name, otherwise)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}: llama.{name} should be a positive integer, but is {value!r:.60}.")
        return value

    hidden, heads = size("embedding_length"), size("attention.head_count")
    width, key_heads = size("attention.key_length", hidden // heads), size("attention.head_count_kv", heads)
    if heads % key_heads:
        raise ValueError(f"{where}: llama.attention.head_count_kv, {key_heads}, should divide {heads} heads.")
    if width % 2:
        raise ValueError(f"{where}: llama.attention.key_length should be even, but is {width}.")
    fixed = {
        "rope.dimension_count": width,
        "attention.value_length": width,
        "expert_count": 0,
        "rope.scaling.type": ("none", "linear"),
    }
    for name, expected in fixed.items():
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if field(name, allowed[0]) not in allowed:
            raise ValueError(f"{where}: llama.{name} should be {expected}, but is {field(name)!r}.")
    factors = tensors.get(_FREQUENCIES, np.ones(width // 2)).astype(float)
    if factors.shape != (width // 2,):
        raise ValueError(f"{where}: {_FREQUENCIES} should have {width // 2} numbers, but has {factors.size}.")
    if field("rope.scaling.type", "none") == "linear":
        factors = factors * field("rope.scaling.factor")
    return LlamaConfig(
        vocab_size=len(tensors["token_embd.weight"]),
        hidden_size=hidden,
        num_hidden_layers=size("block_count"),
        num_attention_heads=heads,
        intermediate_size=size("feed_forward_length"),
        max_position_embeddings=size("context_length"),
        num_key_value_heads=key_heads,
        head_dim=width,
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base", 10000.0),
        rope_factors=() if np.all(factors == 1) else tuple(factors.tolist()),
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        eos_token_id=_ends(metadata),
    )


def _ends(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    found = {
        metadata[f"tokenizer.ggml.{name}_token_id"]
        for name in ("eos", "eot")
        if f"tokenizer.ggml.{name}_token_id" in metadata
    }
    words = metadata.get("tokenizer.ggml.tokens", [])
    return tuple(sorted(found | {words.index(end) for end in _ENDS if end in words}))


def weights_of(file: GGUF, config: LlamaConfig) -> dict[str, np.ndarray]:
    """The tensors, by the names that Hugging Face's checkpoints have after "model.".

    A name that is not known stays as it is.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.key_heads}
    found = {}
    for name, tensor in file.tensors.items():
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if layer and layer[2] in _OF_LAYERS:
            if layer[2] in heads:
                tensor = unpermuted(tensor, heads[layer[2]])
            found[f"layers.{layer[1]}.{_OF_LAYERS[layer[2]]}.{layer[3]}"] = tensor
        elif name != _FREQUENCIES:
            found[_NAMES.get(name, name)] = tensor
    return found


def unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * D, ...] of a projection to queries or keys, in the order of Hugging Face's.

    In a GGUF file the pair (i, i + D / 2) of a head lies side by side.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def tokenizer_of(file: GGUF, where: str) -> tokenizers.Tokenizer | None:
    """The tokenizer, merges of bytes as GPT-2's; None where there is none.

    Raises:
        ValueError: it is of another kind or cuts texts in another way, or its tokens are not what they
            should be.
    """
    fields = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in file.metadata.items()
        if name.startswith("tokenizer.ggml.")
    }
    if not fields:
        return None
    kind, cut = fields.get("model"), fields.get("pre")
    if kind != "gpt2":
        raise ValueError(f"{where}: tokenizer.ggml.model should be 'gpt2', but is {kind!r}.")
    if cut not in _PRE_TOKENIZERS:
        raise ValueError(
            f"{where}: tokenizer.ggml.pre should be one of {sorted(_PRE_TOKENIZERS)}, but is {cut!r}."
        )
    words: Any = fields.get("tokens")
    merges: Any = fields.get("merges")
    if words is None or merges is None:
        raise ValueError(f"{where}: tokenizer.ggml.tokens or tokenizer.ggml.merges is missing.")
    for name, texts in (("tokens", words), ("merges", merges)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: tokenizer.ggml.{name} should be strings, but is {texts!r:.60}.")
    if len(words) != len(file.tensors["token_embd.weight"]):
        raise ValueError(
            f"{where}: tokenizer.ggml.tokens are {len(words)}, but token_embd.weight has "
            f"{len(file.tensors['token_embd.weight'])} rows."
        )
    pairs = [tuple(merge.split(" ")) for merge in merges]
    try:
        model = models.BPE({word: i for i, word in enumerate(words)}, pairs)
    except Exception as error:  # it has no other kind
        raise ValueError(f"{where}: tokenizer.ggml.merges cannot be read: {error}.") from error
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    for word, of in zip(words, fields.get("token_type", ()), strict=False):
        if of in (_CONTROL, _OF_USERS):
            tokenizer.add_tokens([tokenizers.AddedToken(word, special=int(of) == _CONTROL, normalized=False)])
    first = fields.get("bos_token_id")
    if fields.get("add_bos_token") and first is not None:
        if not isinstance(first, int) or not 0 <= first < len(words):
            raise ValueError(f"{where}: tokenizer.ggml.bos_token_id, {first!r}, is none of the tokens.")
        word = words[first]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{word} $A", pair=f"{word} $A {word} $B", special_tokens=[(word, first)]
        )
    return tokenizer
