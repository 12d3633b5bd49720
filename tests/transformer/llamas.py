"""Random checkpoints of Llamas, and GGUF files of the same."""

import struct

import numpy as np
import torch
import transformers

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def random_llama(folder, max_shard_size="1GB", **changes):
    """Writes a checkpoint of random weights, large enough to tell faults; returns the reference model."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SIZES | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def reference_logits(model, tokens, kept=None):
    mask = None if kept is None else torch.tensor(np.asarray(kept).astype(int))
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens)), attention_mask=mask).logits.numpy()


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def field(value):
    """The type and the bytes of a field of metadata."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + string(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(string, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def quantised(array, kind):
    """The bytes of an array, block by block; and what they stand for, number by number."""
    if kind in ("F32", "F16"):
        stored = array.astype({"F32": "<f4", "F16": "<f2"}[kind])
        return stored.tobytes(), stored.astype(np.float32)
    data, values = b"", []
    for block in array.reshape(-1, 32).astype(np.float32):
        if kind == "Q8_0":
            scale = np.float16(np.abs(block).max() / 127)
            numbers = np.clip(np.round(block / np.float32(scale)), -127, 127).astype(int)
            data += struct.pack("<e32b", scale, *numbers)
            values += [np.float32(scale) * number for number in numbers.tolist()]
            continue
        least = np.float16(block.min() if kind == "Q4_1" else 0)
        scale = np.float16((block.max() - least) / 15 if kind == "Q4_1" else np.abs(block).max() / 7)
        shift = 0 if kind == "Q4_1" else 8
        numbers = np.clip(np.round((block - least) / np.float32(scale)) + shift, 0, 15).astype(int).tolist()
        packed = [numbers[i] + 16 * numbers[i + 16] for i in range(16)]
        data += struct.pack("<e", scale) + (struct.pack("<e", least) if kind == "Q4_1" else b"")
        data += bytes(packed)
        values += [np.float32(scale) * (number - shift) + np.float32(least) for number in numbers]
    return data, np.array(values, np.float32).reshape(array.shape)


NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8}


def write_gguf(path, metadata, tensors, version=3):
    """tensors: name -> (type's number, shape, bytes)."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [string(name) + field(value) for name, value in metadata.items()]
    offset, bodies = 0, []
    for name, (number, shape, data) in tensors.items():
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts.append(string(name) + dimensions + struct.pack("<IQ", number, offset))
        data += bytes(-len(data) % 32)
        bodies.append(data)
        offset += len(data)
    head = b"".join(parts)
    path.write_bytes(head + bytes(-len(head) % 32) + b"".join(bodies))


def gguf_of(model, kind):
    """Metadata and tensors of a reference model; its matrices become what the file has of them."""
    config = model.config
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "llama.rope.dimension_count": config.head_dim,
        "llama.attention.key_length": config.head_dim,
    }
    short = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = {}
    for name, parameter in model.named_parameters():
        stem = name.removesuffix(".weight")
        layer = stem.removeprefix("model.layers.").partition(".")
        new = short[stem] if stem in short else f"blk.{layer[0]}.{short[layer[2]]}"
        array = parameter.detach().numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        heads = heads.get(new.rpartition(".")[2])
        rows = np.arange(len(array))
        if heads:  # the two numbers of a pair side by side
            width = len(array) // heads
            halves = [(pair, pair + width // 2) for pair in range(width // 2)]
            rows = np.array([head * width + row for head in range(heads) for both in halves for row in both])
        stored = "F32" if array.ndim == 1 else kind
        data, values = quantised(array[rows], stored)
        tensors[f"{new}.weight"] = (NUMBERS[stored], array.shape, data)
        back = np.empty_like(values)
        back[rows] = values
        parameter.data = torch.tensor(back)
    return metadata, tensors


# A vocabulary of bytes, a few merges, and two special tokens: 64 in all.
BYTES = [chr(ord("a") + i) for i in range(26)] + list("0123456789") + ["Ġ", ".", "'"]
MERGES = ["a b", "ab c", "Ġ t", "Ġt h", "' s", "1 2", "e r"]
WORDS = [*BYTES, *(merge.replace(" ", "") for merge in MERGES)]
WORDS += [*(f"<unused{i}>" for i in range(62 - len(WORDS))), "<|endoftext|>", "<|start|>"]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.token_type": [1] * 62 + [3, 3],
    "tokenizer.ggml.eos_token_id": 61,
    "tokenizer.ggml.bos_token_id": 63,
}


def write_llama(path):
    """A random Llama with a tokenizer of 64 words, as a GGUF file; returns the path."""
    metadata, tensors = gguf_of(random_llama(path.parent, max_position_embeddings=256), "F32")
    write_gguf(path, metadata | TOKENIZER, tensors)
    return path
