"""Strict settings for every test: eight CPU devices, no implicit rank promotion, no key used twice."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Compiled programs are kept: for other workers, for processes that tests start, for the next time.
# JAX_ENABLE_COMPILATION_CACHE=0 leaves it alone.
KEPT = {
    "jax_compilation_cache_dir": str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"),
    "jax_persistent_cache_min_compile_time_secs": 0,
}
for name, value in KEPT.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def released_programs():
    """A file's programs are let go of after it: those of all files take many GB. Kept ones are read anew."""
    yield
    jax.clear_caches()
