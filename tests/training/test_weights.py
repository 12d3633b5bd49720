"""Parameters from the tensors of a PyTorch checkpoint."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.weights import from_tensors

TEMPLATE = {
    "dense": {
        "kernel": jax.ShapeDtypeStruct((3, 2), np.float32),
        "bias": jax.ShapeDtypeStruct((2,), np.float32),
    },
    "conv": {"kernel": jax.ShapeDtypeStruct((5, 4, 3, 2), np.float32)},
    "table": {"embedding": jax.ShapeDtypeStruct((7, 3), np.float32)},
}


def name_of(path):
    return ".".join(path)


@pytest.fixture
def tensors():
    """In PyTorch's layout."""
    shapes = {
        "dense.kernel": (2, 3),
        "dense.bias": (2,),
        "conv.kernel": (2, 3, 5, 4),
        "table.embedding": (7, 3),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_kernels_alone_are_transposed(tensors):
    found = from_tensors(TEMPLATE, tensors, name_of=name_of, what="it")
    np.testing.assert_array_equal(found["dense"]["kernel"], tensors["dense.kernel"].T)
    for index in np.ndindex(5, 4, 3, 2):
        height, width, inner, outer = index
        assert found["conv"]["kernel"][index] == tensors["conv.kernel"][outer, inner, height, width]
    for path in (("dense", "bias"), ("table", "embedding")):
        np.testing.assert_array_equal(found[path[0]][path[1]], tensors[name_of(path)])


def test_the_dtype_is_the_tensors_or_the_one_asked_for(tensors):
    tensors = {name: jnp.asarray(tensor, jnp.bfloat16) for name, tensor in tensors.items()}
    for dtype, expected in ((None, jnp.bfloat16), (np.float32, np.float32)):
        found = from_tensors(TEMPLATE, tensors, name_of=name_of, what="it", dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(expected)}
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_foreign_tensors_may_be_left_over(tensors):
    foreign = re.compile(r"head\.")
    from_tensors(TEMPLATE, tensors | {"head.bias": np.zeros(1)}, name_of=name_of, what="it", foreign=foreign)
    with pytest.raises(ValueError, match="not fit it: my.head.bias is left over"):
        from_tensors(
            TEMPLATE, tensors | {"my.head.bias": np.zeros(1)}, name_of=name_of, what="it", foreign=foreign
        )


def test_all_faults_are_told_at_once(tensors):
    del tensors["dense.bias"]
    tensors |= {"extra": np.zeros(1), "conv.kernel": np.zeros(3), "table.embedding": np.zeros((3, 7))}
    with pytest.raises(ValueError, match="the checkpoint does not fit a model of two layers: ") as error:
        from_tensors(TEMPLATE, tensors, name_of=name_of, what="a model of two layers")
    for fault in (
        "dense.bias is missing",
        "conv.kernel is (3,), not (5, 4, 3, 2)",
        "table.embedding is (3, 7), not (7, 3)",
        "extra is left over",
    ):
        assert fault in str(error.value)
