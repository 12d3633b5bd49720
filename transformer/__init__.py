"""Encoders with pretrained weights whose attention is any attention of smyrf_jax."""

from transformer.encoder import Classifier, Encoder, EncoderConfig
from transformer.pretrained import load_encoder

__all__ = ["Classifier", "Encoder", "EncoderConfig", "load_encoder"]
