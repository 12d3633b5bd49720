"""BERT's and RoBERTa's classifiers of texts, on their encoders."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from smyrf_jax import Dense, Method
from transformer.encoder import Encoder, EncoderConfig


class Classifier(nn.Module):
    """An encoder and a head: BERT's, on the pooled output, or RoBERTa's, on the first token.

    encoder: whose weights are at "bert" or "roberta", as in checkpoints.
    num_labels: classes, or 1 for a number.
    """

    config: EncoderConfig
    num_labels: int
    attention: Method | Sequence[Method] = Dense()

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        kept: Bool[Array | np.ndarray, "B T"] | None = None,
        token_types: Int[Array | np.ndarray, "B T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B K"]:
        """Logits [B, num_labels]. Arguments as for `Encoder`."""
        roberta = self.config.model_type == "roberta"
        encoder = Encoder(self.config, self.attention, has_pooler=not roberta, name=self.config.model_type)
        output = encoder(tokens, kept, token_types, deterministic=deterministic)
        dropout = nn.Dropout(self.config.hidden_dropout_prob, deterministic=deterministic)
        if roberta:
            return ClassificationHead(self.config, self.num_labels, name="classifier")(output.first, dropout)
        return nn.Dense(self.num_labels, name="classifier")(dropout(output.pooled))


class ClassificationHead(nn.Module):
    config: EncoderConfig
    num_labels: int

    @nn.compact
    def __call__(self, first: Array, dropout: Callable[[Array], Array]) -> Array:
        hidden = jnp.tanh(nn.Dense(self.config.hidden_size, name="dense")(dropout(first)))
        return nn.Dense(self.num_labels, name="out_proj")(dropout(hidden))
