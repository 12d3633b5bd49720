"""Encoders and causal language models with pretrained weights, with any method of smyrf_jax as attention."""

from transformer.causal import load_causal
from transformer.classifier import Classifier
from transformer.encoder import Encoder, EncoderConfig
from transformer.llama import Llama
from transformer.llama_config import LlamaConfig
from transformer.pretrained import load_encoder, load_vision
from transformer.t2t import T2TConfig, T2TViT, load_t2t
from transformer.vision import VisionConfig, VisionTransformer

__all__ = [
    "Classifier",
    "Encoder",
    "EncoderConfig",
    "Llama",
    "LlamaConfig",
    "T2TConfig",
    "T2TViT",
    "VisionConfig",
    "VisionTransformer",
    "load_causal",
    "load_encoder",
    "load_t2t",
    "load_vision",
]
