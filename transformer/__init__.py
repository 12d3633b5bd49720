"""Encoders with pretrained weights, with the attention of any method of smyrf_jax."""

from transformer.classifier import Classifier
from transformer.encoder import Encoder, EncoderConfig
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
