"""Encoders with pretrained weights, with the attention of any method of smyrf_jax."""

from transformer.classifier import Classifier
from transformer.encoder import Encoder, EncoderConfig
from transformer.pretrained import load_encoder, load_vision
from transformer.t2t import T2TConfig, T2TViT, load_t2t
from transformer.vision import VisionConfig, VisionTransformer

__all__ = [
    "Classifier",
    "Encoder",
    "EncoderConfig",
    "T2TConfig",
    "T2TViT",
    "VisionConfig",
    "VisionTransformer",
    "load_encoder",
    "load_t2t",
    "load_vision",
]
