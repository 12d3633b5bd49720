"""Encoders with pretrained weights whose attention is any attention of smyrf_jax."""

from transformer.encoder import Classifier, Encoder, EncoderConfig
from transformer.pretrained import load_encoder, load_vision
from transformer.vision import VisionConfig, VisionTransformer

__all__ = [
    "Classifier",
    "Encoder",
    "EncoderConfig",
    "VisionConfig",
    "VisionTransformer",
    "load_encoder",
    "load_vision",
]
