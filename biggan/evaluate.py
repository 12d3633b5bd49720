"""How good are generated images? Distances to real ones, by the features of a network.

python -m biggan.evaluate --workdir=runs/quickstart --metrics=fd,kd,prdc
python -m biggan.evaluate --fake=samples --real=photos.zip --features=dinov2_s14,inception \\
    --inception_weights=pt_inception-2015-12-05-6726825d.pth --json=metrics.json

Generated are a checkpoint's samples (--workdir), or the images of a folder, .tar, .zip, .npy or .npz file
(--fake). Real are such images too, records of biggan.convert, a prepared TFDS data set or a file of
statistics (--real); without --real they are the data that the run was trained on.

Each metric is printed with its spread: of fd by the jackknife over ten parts of the samples, of kd and is the
deviation over subsets, of fd_infinity the standard error of the fit. fd of features=inception is the FID: by
default resized as pytorch-fid does; --resize=clean is clean-fid's. A FID wants 50,000 samples.
"""

import json

import jax
from absl import app, flags
from tqdm import tqdm

from biggan.evaluation import Samples, build_real, open_images, save_pairs
from biggan.restoring import read_config, restore_generator
from biggan.sampling import Sampler, latents, sampling_keys, standing_statistics
from evaluation.evaluator import Evaluator
from evaluation.images import Images
from evaluation.inception import INCEPTION_SHA256
from evaluation.metrics import METRICS
from evaluation.neighbours import closest_pairs
from evaluation.networks import NAMES, load_network
from evaluation.resizers import RESIZERS
from evaluation.statistics import Statistics, is_statistics, save_statistics
from training.command import start, without_traceback
from training.files import make_parent, path_of, write_whole

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run, whose generator is measured.")
_FAKE = flags.DEFINE_string(
    "fake", None, "generated images instead: a folder, .tar, .zip, .npy or .npz file."
)
_REAL = flags.DEFINE_string(
    "real",
    None,
    "real images, of those kinds, records or TFDS, or a statistics file; default: the run's data.",
)
_SPLIT = flags.DEFINE_string("split", "train", "of --real, if it is a TFDS data set.")
_METRICS = flags.DEFINE_list("metrics", ["fd", "kd"], f"of {', '.join(METRICS)}.")
_FEATURES = flags.DEFINE_list("features", ["dinov2_s14"], f"of {', '.join(NAMES)}.")
_NUM = flags.DEFINE_integer("num", 50_000, "generated images: drawn, or taken at most.", lower_bound=2)
_RESOLUTION = flags.DEFINE_integer(
    "resolution",
    None,
    "squares of this side are cut of all images first; default: the generator's, or none.",
    lower_bound=1,
)
_RESIZE = flags.DEFINE_enum(
    "resize", None, list(RESIZERS), "how images come to the size of the network; default: its own way."
)
_STEP = flags.DEFINE_string("step", "newest", "of the checkpoint: a number, newest or best.")
_TRUNCATION = flags.DEFINE_float("truncation", None, "of the noise; default: none.")
_STANDING = flags.DEFINE_bool("standing_statistics", False, "measure batch statistics anew.")
_EMA = flags.DEFINE_bool("ema", True, "take the averaged weights where there are any.")
_SEED = flags.DEFINE_integer("seed", 0, "of the noise, and of subsets.", lower_bound=0, upper_bound=2**32 - 1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "images at once on a device.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file to write: one object, a field a metric.")
_PAIRS = flags.DEFINE_string(
    "pairs", "pairs.png", "with memorisation: picture to write, of the samples nearest to a real image."
)
_SAVE = flags.DEFINE_string("save_statistics", None, "file to write: statistics of the real images, .npz.")
_CACHE = flags.DEFINE_string(
    "cache", "~/.cache/smyrf_jax", "folder that keeps statistics of real images, by their content; '': none."
)
_INCEPTION = flags.DEFINE_string("inception_weights", "", "file of pytorch-fid's Inception.")
_SHA256 = flags.DEFINE_string("inception_sha256", INCEPTION_SHA256, "of that file; default: of the FID's.")
_DINOV2 = flags.DEFINE_string("dinov2_weights", "", "folder or ONNX file of a DINOv2.")
_SKIP = flags.DEFINE_bool("skip_corrupt", False, "leave images out that cannot be used.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if (_WORKDIR.value is None) == (_FAKE.value is None):
        raise app.UsageError("one of --workdir, a run, and --fake, images, is wanted, and not both.")
    if _FAKE.value and not _REAL.value:
        raise app.UsageError("--fake wants --real, the images that it is compared with.")
    of_runs = [f"--{flag.name}" for flag in (_STEP, _TRUNCATION, _STANDING, _EMA) if flag.present]
    if _FAKE.value and of_runs:
        raise app.UsageError(f"{', '.join(of_runs)} is of samples of a run: it means nothing with --fake.")
    of_images = [f"--{flag.name}" for flag in (_SPLIT, _SKIP) if flag.present]
    if not _REAL.value and of_images:
        raise app.UsageError(
            f"{', '.join(of_images)} is of --real, which is not given: the run's config has it."
        )
    if _PAIRS.present and "memorisation" not in _METRICS.value:
        raise app.UsageError("--pairs is a picture of --metrics=memorisation, which is not asked for.")
    if _SAVE.value and (len(_FEATURES.value) > 1 or not _SAVE.value.endswith(".npz")):
        raise app.UsageError("--save_statistics wants a file NAME.npz, and one network in --features.")
    without_traceback(evaluate, "--batch_size")


def evaluate() -> None:
    for flag in (_JSON, _SAVE, _PAIRS):
        if flag.value:
            make_parent(flag.name, flag.value)
    paths = {"inception": _INCEPTION.value, "dinov2": _DINOV2.value}
    networks = [load_network(name, paths, _RESIZE.value, _SHA256.value) for name in _FEATURES.value]
    devices = jax.local_devices()
    evaluator = Evaluator(
        networks,
        _METRICS.value,
        tqdm,
        cache=_CACHE.value or None,
        devices=devices,
        batch_size=_BATCH.value * len(devices),
        seed=_SEED.value,
    )
    evaluator.check_counts(_NUM.value, None)
    fake: Images
    if _FAKE.value:
        resolution = _RESOLUTION.value
        fake = _images_of("fake", _FAKE.value, resolution, most=_NUM.value)
    else:
        fake, resolution = _samples(str(_WORKDIR.value))
    evaluator.check_counts(len(fake), None)
    images, real = _real_statistics(evaluator, resolution, len(fake))
    if _SAVE.value:
        save_statistics(_SAVE.value, real[0])
    found = evaluator(fake, real)
    print("\n".join(found.lines()))
    if _JSON.value:
        write_whole(path_of(_JSON.value), json.dumps(found.values(), indent=1).encode())
    if "memorisation" not in _METRICS.value:
        return
    if images is None:
        print("No picture of pairs: --real is a file of statistics.")
        return
    of_fake, of_real = found.fake[0].vectors, real[0].vectors
    assert of_fake is not None
    assert of_real is not None
    save_pairs(closest_pairs(of_fake, of_real), fake, images, _PAIRS.value)
    print(f"Samples beside the nearest real images, the nearest first: {_PAIRS.value}")


def _samples(workdir: str) -> tuple[Images, int]:
    """Samples of a checkpoint, and their side."""
    generator, variables, _ = restore_generator(workdir, _STEP.value, _EMA.value)
    if _RESOLUTION.value not in (None, generator.resolution):
        raise ValueError(
            f"--resolution={_RESOLUTION.value}, but the generator's images are {generator.resolution} wide: "
            "leave it out."
        )
    keys = sampling_keys(_SEED.value)
    noise, labels = latents(generator, keys.noise, _NUM.value, _TRUNCATION.value)
    if _STANDING.value:
        variables = standing_statistics(generator, variables, keys.standing, truncation=_TRUNCATION.value)
    sampler = Sampler(generator, _BATCH.value, jax.local_devices())
    return Samples(sampler, variables, noise, labels, keys.hashing), generator.resolution


def _real_statistics(
    evaluator: Evaluator, resolution: int | None, num: int
) -> tuple[Images | None, list[Statistics]]:
    """The real images, if there are any, and their statistics."""
    if _REAL.value and is_statistics(_REAL.value):
        return None, evaluator.real_of_file(_REAL.value)
    images = (
        _images_of("real", _REAL.value, resolution) if _REAL.value else _data_of(str(_WORKDIR.value), num)
    )
    return images, evaluator.real(images)


def _data_of(workdir: str, num: int) -> Images:
    """What a run was trained on."""
    config = read_config(workdir)
    try:
        return build_real(config, num)
    except (OSError, ValueError) as error:
        raise ValueError(f"the data of the run cannot be read: --real names other. {error}") from error


def _images_of(flag: str, path: str, resolution: int | None, most: int | None = None) -> Images:
    return open_images(
        flag,
        path,
        resolution,
        split=_SPLIT.value,
        skip_corrupt=_SKIP.value,
        progress=tqdm,
        most=most,
        seed=_SEED.value,
    )


if __name__ == "__main__":
    start(main)
