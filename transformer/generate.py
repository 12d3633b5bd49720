"""Goes on with a text, token by token, with the attention of any method that can decode.

    python -m transformer.generate --model=smollm2 --prompt="The history of attention begins with"
    python -m transformer.generate --prompt="Once upon a time" --method=local --fields=window=512 \\
        --temperature=0.8 --top_p=0.95 --seed=1 --num_tokens=200

The likeliest token comes next, or with a temperature one that is drawn. It ends after --num_tokens or with
the token that ends a text. Wants the extra [text].
"""

import sys
import time

import jax
import numpy as np
from absl import app, flags
from tokenizers.decoders import DecodeStream

from smyrf_jax import Method, method_from_config
from smyrf_jax.methods import METHODS
from training.command import start, without_traceback
from transformer.causal import load_causal
from transformer.sampling import generate
from transformer.settings import fields_of

_MODEL = flags.DEFINE_string("model", "smollm2", "smollm2, a checkpoint's folder or a GGUF file.")
_PROMPT = flags.DEFINE_string("prompt", None, "the text to go on with.", required=True)
_NUM_TOKENS = flags.DEFINE_integer("num_tokens", 64, "tokens to add at most.", lower_bound=1)
_METHOD = flags.DEFINE_enum("method", "dense", list(METHODS), "attention of all layers.")
_FIELDS = flags.DEFINE_list("fields", [], "fields of the method, as window=512.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "by which logits are divided; 0 takes the likeliest token.", lower_bound=0.0
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "draws among so many likeliest tokens; 0: all.", lower_bound=0)
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "draws among the likeliest tokens of this probability.", lower_bound=0.0, upper_bound=1.0
)
_SEED = flags.DEFINE_integer("seed", 0, "of what is drawn.")
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", None, "tokens in all; past the trained length positions are interpolated."
)


def write() -> None:
    """Writes the text to the terminal as it comes, and then how fast it came."""
    fields = fields_of(_FIELDS.value)
    try:
        method = method_from_config(_METHOD.value, **fields)
    except ValueError as error:
        raise ValueError(
            f"--method={_METHOD.value} with --fields={','.join(_FIELDS.value)}: {error}"
        ) from error
    if type(method).decode_step is Method.decode_step:
        able = [name for name, kind in METHODS.items() if kind.decode_step is not Method.decode_step]
        raise ValueError(
            f"--method={_METHOD.value} cannot decode token by token: it should be one of {', '.join(able)}."
        )
    model, params, tokenizer = load_causal(_MODEL.value, attention=method, max_length=_MAX_LENGTH.value)
    if tokenizer is None:
        raise FileNotFoundError(f"--model={_MODEL.value} has no tokenizer.")
    prompt = tokenizer.encode(_PROMPT.value).ids
    length, longest = len(prompt) + _NUM_TOKENS.value, model.config.max_position_embeddings
    if length > longest:
        raise ValueError(
            f"--prompt and --num_tokens are {length} tokens, but the checkpoint has positions for {longest}: "
            f"--max_length={length} interpolates them."
        )
    params = jax.device_put(params)
    stream = DecodeStream(ids=prompt, skip_special_tokens=True)
    print("Compiling: the first two tokens wait for it.", file=sys.stderr)
    print(_PROMPT.value, end="", flush=True)
    start = time.perf_counter()
    times = []
    for token in generate(
        model,
        params,
        prompt,
        _NUM_TOKENS.value,
        rng=jax.random.key(_SEED.value),
        temperature=_TEMPERATURE.value,
        top_k=_TOP_K.value,
        top_p=_TOP_P.value,
    ):
        times.append(time.perf_counter())
        print(stream.step(tokenizer, token) or "", end="", flush=True)
    print()
    told = f"{len(prompt)} tokens read and {len(times)} written by {method}"
    if times:
        told += f"; the first after {times[0] - start:.1f} s"
    if len(times) > 2:  # the second waits for its step to be compiled
        told += f", then {1 / np.mean(np.diff(times[1:])):.1f} tokens a second"
    print(f"{told}.", file=sys.stderr)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    without_traceback(write, "--max_length and --num_tokens")


if __name__ == "__main__":
    start(main)
