"""Parity with the original program: outputs, losses, gradients and the state after a training pass."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biggan.discriminator import Discriminator
from biggan.generator import Generator
from biggan.losses import discriminator_hinge, generator_hinge
from biggan.torch_weights import from_state_dict, torch_name
from smyrf_jax import Clustering, Dense, Method, clustered_attention

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CASES = ["celeba32_dense", "celeba32_smyrf", "imagenet32_dense", "imagenet32_smyrf"]
CASES += ["celeba128_dense", "celeba128_smyrf", "imagenet128_dense", "imagenet128_smyrf"]
slow_cases = [pytest.param(name, marks=pytest.mark.slow if "128" in name else ()) for name in CASES]


class Recorded(Method):
    """Attention on the original's recorded positions, one recording after the other."""

    def __init__(self, case, run, sizes):
        self.case, self.run, self.sizes, self.calls = case, run, sizes, 0

    def attend(self, query, key, value, mask, *, rng, scale, is_causal):
        record = f"smyrf/{self.run}/{self.calls}"
        self.calls += 1
        # A case without recordings was run with dense attention.
        if f"{record}/q_positions" not in self.case:
            return Dense().attend(query, key, value, mask, rng=rng, scale=scale, is_causal=is_causal)

        def order(name, size):
            positions = jnp.asarray(self.case[f"{record}/{name}"], jnp.int32)  # [R, B, T]
            rounds, batch, length = positions.shape
            cut = positions.reshape(rounds, batch, 1, length // size, size)
            return cut.transpose(1, 2, 0, 3, 4)

        orders = (order("q_positions", self.sizes[0]), order("k_positions", self.sizes[1]))
        clustering = Clustering(*orders)
        return clustered_attention(query, key, value, clustering, scale=scale, return_residual=True)


@functools.cache
def load(name):
    case = {}
    names = [name]
    if "128" in name:
        data, kind = name.split("_")
        names = [f"{data}_Dstate", f"{data}_Gstate", f"{data}_G_{kind}", f"{data}_D_{kind}"]
    for part in names:
        path = GOLDEN / f"biggan_{part}.npz"
        if not path.exists():  # D of celeba128 has no attention, so there is no D_smyrf
            path = GOLDEN / f"biggan_{data}_D_dense.npz"
        with np.load(path) as file:
            case |= {k if k != "config" else f"config/{part}": v for k, v in file.items()}
    configs = [json.loads(str(v)) for k, v in case.items() if k.startswith("config/")]
    d_config, g_config = configs[0], configs[-1]
    return case, g_config, d_config


class Network:
    """The original's G and D of a case, in a dtype."""

    def __init__(self, name, dtype):
        self.case, g, d = load(name)
        self.dtype = dtype
        self.sizes = (g["q_cluster_size"], g["k_cluster_size"])
        resolution = g["resolution"]
        # Their table for D at 32 calls all four maps 16; they are 16 and 8.
        self.g_sizes = [int(g["G_attn"])]
        self.d_sizes = [16, 8] if resolution == 32 else [int(d["D_attn"])]
        if d["D_attn"] == "128" and resolution == 128:
            self.d_sizes = []  # D at 128 has no such stage
        shared = {"resolution": resolution, "num_classes": g["n_classes"], "dtype": dtype}
        self.generator = Generator(
            channels=g["G_ch"],
            dim_z=g["dim_z"],
            shared_dim=g["shared_dim"] if g["G_shared"] else 0,
            hierarchical=g["hier"],
            bn_eps=g["BN_eps"],
            sn_eps=g["SN_eps"],
            attention=dict.fromkeys(self.g_sizes, Dense()),
            **shared,
        )
        self.discriminator = Discriminator(
            channels=d["D_ch"],
            sn_eps=d["SN_eps"],
            attention=dict.fromkeys(self.d_sizes, Dense()),
            **shared,
        )
        labels = jnp.zeros(1, jnp.int32)
        rngs = {"params": jax.random.key(0), "hashing": jax.random.key(1)}
        noise = jnp.zeros((1, self.generator.noise_width))
        images = jnp.zeros((1, resolution, resolution, 3))
        self.g = self.load("G", eval_init(self.generator, rngs, noise, labels))
        self.d = self.load("D", eval_init(self.discriminator, rngs, images, labels))

    def load(self, network, template):
        prefix = f"{network}/state/"
        state = {
            name.removeprefix(prefix).replace("/", "."): value
            for name, value in self.case.items()
            if name.startswith(prefix)
        }
        variables = from_state_dict(template, state)
        return jax.tree.map(lambda value: jnp.asarray(value, self.dtype), variables)

    def array(self, name):
        value = jnp.asarray(self.case[name])
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)  # NCHW
        integer = jnp.issubdtype(value.dtype, jnp.integer)
        return value.astype(jnp.int32 if integer else self.dtype)

    def apply(self, module, sizes, run, variables, inputs, labels, train):
        attention = dict.fromkeys(sizes, Recorded(self.case, run, self.sizes))
        return module.clone(attention=attention).apply(
            variables,
            inputs,
            labels,
            train=train,
            mutable=["batch_stats", "spectral_norm"],
            rngs={"hashing": jax.random.key(0)},
        )

    def generate(self, run, variables, train):
        noise, labels = self.array("z"), self.array("y")
        return self.apply(self.generator, self.g_sizes, run, variables, noise, labels, train)

    def score(self, run, variables, images, labels, train):
        return self.apply(self.discriminator, self.d_sizes, run, variables, images, labels, train)


def eval_init(module, rngs, inputs, labels):
    return jax.eval_shape(lambda: module.init(rngs, inputs, labels, train=False))


def assert_close(actual, expected, relative, name=""):
    actual, expected = np.asarray(actual), np.asarray(expected)
    if expected.ndim == 4 and actual.shape != expected.shape:
        expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(
        actual,
        expected.reshape(actual.shape),
        rtol=relative,
        atol=relative * np.abs(expected).max(),
        err_msg=name,
    )


def assert_gradients(grads, case, run, relative):
    """Named gradients in full, and the norm of every one."""
    seen = 0
    # Biases of layers before a batch norm have gradients that are rounding alone.
    floor = 1e-9 * max(float(v) for k, v in case.items() if k.startswith(f"gradnorm/{run}/"))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        names = tuple(entry.key for entry in path)
        name = torch_name(names).replace(".", "/")
        norm = float(case[f"gradnorm/{run}/{name}"])
        np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=relative, atol=floor, err_msg=name)
        if f"grad/{run}/{name}" in case and norm > floor:
            expected = case[f"grad/{run}/{name}"]
            if names[-1] == "kernel":
                expected = expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected.T
            np.testing.assert_allclose(
                grad, expected, rtol=relative, atol=relative * np.abs(expected).max(), err_msg=name
            )
            seen += 1
    recorded = sum(name.startswith(f"grad/{run}/") for name in case)
    assert seen >= recorded - 2  # those below the floor
    assert seen > 0


def assert_state_after(updates, before, case, run, count, relative):
    """Buffers after a training pass. Running variances: linen's are biased, the recorded are not."""
    stats_before = jax.tree.map(np.asarray, {k: before[k] for k in updates})
    compared = 0
    for path, value in jax.tree_util.tree_leaves_with_path(updates):
        names = tuple(entry.key for entry in path)
        name = torch_name(names[1:]).replace(".", "/")
        expected = np.asarray(case[f"after/{run}/{name}"])
        if names[-1] == "var":
            old = functools.reduce(lambda tree, key: tree[key], names, stats_before)
            # n samples of each statistic: the unbiased variance is n / (n - 1) times the biased.
            n = count(names)
            value = 0.9 * old + (value - 0.9 * old) * n / (n - 1)
        assert_close(value, expected.reshape(np.shape(value)), relative, name)
        compared += 1
    assert compared > 5


@pytest.mark.parametrize("name", slow_cases)
def test_float64_parity(name):
    with jax.enable_x64(True):
        network = Network(name, jnp.float64)
        check_generator(network)
        check_discriminator(network)


def check_generator(network):
    case, g = network.case, network.g
    generate = jax.jit(network.generate, static_argnums=(0, 2))
    images, _ = generate("G_eval", g, False)
    assert_close(images, case["G/out_eval"], 1e-6)

    @jax.jit
    def training_pass(params):
        def generated(params):
            return network.generate("G_train", g | {"params": params}, True)

        return jax.vjp(generated, params, has_aux=True)

    # Two losses of the same images: one forward pass, and one program for both backward passes.
    images, backward, updates = training_pass(g["params"])
    gradients = jax.jit(lambda backward, cotangent: backward(cotangent)[0])
    assert_close(images, case["G/out_train"], 1e-6)
    assert_state_after(updates, g, case, "G_train", functools.partial(count, network), 1e-6)

    def weighted_sum(images):
        flat = images.transpose(0, 3, 1, 2).reshape(-1)
        return jnp.sum(flat * jnp.cos(0.37 * jnp.arange(flat.size)))

    value, cotangent = jax.value_and_grad(weighted_sum)(images)
    assert_close(value, case["G/wsum_loss"], 1e-6)
    assert_gradients(gradients(backward, cotangent), case, "G_wsum", 1e-6)

    d = network.d

    @jax.jit
    def hinge(images):
        scores, updates = network.score("D_gstep", d, images, network.array("y"), True)
        return generator_hinge(scores), (scores, updates)

    (value, (scores, updates)), cotangent = jax.value_and_grad(hinge, has_aux=True)(images)
    assert_close(scores, case["GS/D_fake"], 1e-6)
    assert_close(value, case["GS/G_loss"], 1e-6)
    assert_gradients(gradients(backward, cotangent), case, "G_loss", 1e-6)
    assert_state_after(updates, d, case, "D_gstep", None, 1e-6)


def count(network, names):
    """Values that a batch norm averages over: the batch times the map's area."""
    batch, resolution = len(network.case["z"]), network.generator.resolution
    if names[1] == "output_norm":
        return batch * resolution**2
    index = int(names[1].removeprefix("block"))
    size = 4 << (index + (names[2] == "bn2"))
    return batch * size**2


def check_discriminator(network):
    case, d = network.case, network.d
    images = jnp.concatenate([network.array("x_fake"), network.array("x_real")])
    labels = jnp.concatenate([network.array("y"), network.array("y_real")])
    scores, _ = jax.jit(network.score, static_argnums=(0, 4))("D_eval", d, images, labels, False)
    assert_close(scores, case["D/out_eval"], 1e-6)

    @jax.jit
    def loss(params):
        variables = d | {"params": params}
        scores, updates = network.score("D_train", variables, images, labels, True)
        fake, real = jnp.split(scores, 2)
        losses = discriminator_hinge(fake, real)
        return sum(losses), (fake, real, losses, updates)

    (_, (fake, real, losses, updates)), grads = jax.value_and_grad(loss, has_aux=True)(d["params"])
    assert_close(fake, case["D/out_fake"], 1e-6)
    assert_close(real, case["D/out_real"], 1e-6)
    assert_close(losses[0], case["D/loss_fake"], 1e-6)
    assert_close(losses[1], case["D/loss_real"], 1e-6)
    assert_gradients(grads, case, "D_loss", 1e-6)
    assert_state_after(updates, d, case, "D_train", None, 1e-6)


@pytest.mark.parametrize("name", slow_cases)
def test_float32_outputs(name):
    network = Network(name, jnp.float32)
    case = network.case
    images, _ = jax.jit(network.generate, static_argnums=(0, 2))("G_eval", network.g, False)
    assert_close(images, case["G/out_eval"], 1e-4)
    images, _ = jax.jit(network.generate, static_argnums=(0, 2))("G_train", network.g, True)
    assert_close(images, case["G/out_train"], 1e-4)
    images = jnp.concatenate([network.array("x_fake"), network.array("x_real")])
    labels = jnp.concatenate([network.array("y"), network.array("y_real")])
    score = jax.jit(network.score, static_argnums=(0, 4))
    scores, _ = score("D_eval", network.d, images, labels, False)
    assert_close(scores, case["D/out_eval"], 1e-4)
    scores, _ = score("D_train", network.d, images, labels, True)
    recorded = np.concatenate([case["D/out_fake"], case["D/out_real"]])
    assert_close(scores, recorded, 1e-4)


COUNTS = json.loads((GOLDEN / "biggan_param_counts.json").read_text())["counts"]
FULL_SIZE = [("celeba", 128), ("celeba", 256), ("imagenet", 128), ("imagenet", 256)]


@pytest.mark.parametrize(("data", "resolution"), FULL_SIZE)
def test_parameter_counts_of_the_full_size_models(data, resolution):
    imagenet = data == "imagenet"
    shared = {"resolution": resolution, "num_classes": 1000 if imagenet else 1}
    g_size = 64 if imagenet else 128
    d_sizes = [g_size] if imagenet or resolution == 256 else []
    generator = Generator(
        shared_dim=128 if imagenet else 0,
        hierarchical=imagenet,
        attention={g_size: Dense()},
        **shared,
    )
    discriminator = Discriminator(attention=dict.fromkeys(d_sizes, Dense()), **shared)
    labels = jnp.zeros(1, jnp.int32)
    rngs = {"params": jax.random.key(0), "hashing": jax.random.key(1)}
    recorded = COUNTS[f"{data}/{resolution}/Generator/tpu_variant"]
    assert generator.noise_width == recorded["dim_z_effective"]
    inputs = {
        "Generator": (generator, jnp.zeros((1, generator.noise_width))),
        "Discriminator": (discriminator, jnp.zeros((1, resolution, resolution, 3))),
    }
    for network, (module, x) in inputs.items():
        variables = eval_init(module, rngs, x, labels)
        recorded = COUNTS[f"{data}/{resolution}/{network}/tpu_variant"]
        assert size_of(variables.pop("params")) == recorded["parameters"]
        assert size_of(variables) == recorded["buffers"]


def size_of(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
