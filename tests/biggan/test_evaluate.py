"""python -m biggan.evaluate, with the network that a Python package carries."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.biggan.several import run_several
from tests.biggan.variables import save_run

pytestmark = pytest.mark.process


def evaluate(*commands):
    return run_several("biggan.evaluate", *commands)


def write_images(root, num, seed, side=32):
    """Of plain colours."""
    root.mkdir()
    for index, colour in enumerate(np.random.default_rng(seed).integers(0, 256, (num, 3), np.uint8)):
        Image.fromarray(np.broadcast_to(colour, (side, side, 3))).save(root / f"{index:03d}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny):
    """A run on a folder of images, without the training."""
    folder = tmp_path_factory.mktemp("runs")
    config = make_tiny()
    config.data.source, config.data.path = "", str(write_images(folder / "data", 20, 0))
    save_run(config, folder / "run", steps=(4, 12))
    return folder / "run"


def test_a_checkpoint_a_folder_and_a_file_of_statistics(run, tmp_path):
    common = ["--num=24", f"--cache={tmp_path / 'cache'}"]
    statistics, pairs = str(tmp_path / "real.npz"), str(tmp_path / "pairs.png")
    fake = write_images(tmp_path / "fake", 30, 1)
    packed = str(tmp_path / "fake.zip")
    with zipfile.ZipFile(packed, "w") as file:
        for image in fake.iterdir():
            file.write(image, image.name)
    real = f"--real={run.parent / 'data'}"
    commands = [
        [f"--workdir={run}", "--metrics=fd,kd,prdc,memorisation", f"--pairs={pairs}"],
        [f"--fake={fake}", real, "--metrics=kd", f"--save_statistics={statistics}"],
        [f"--fake={packed}", f"--real={statistics}", "--metrics=fd,kd"],
        [f"--fake={fake}", real, "--metrics=kd", "--resolution=16"],
    ]
    for index, command in enumerate(commands):
        command += [*common, f"--json={tmp_path / str(index)}.json"]
    lines, progress = evaluate(*commands)
    assert lines.count("done") == 4, lines
    assert any(
        line.startswith("fd_dinov2_s14: ") and "(24 generated, 20 real images)" in line for line in lines
    )
    assert "There are fewer generated images (24) than features (384): fd is far too high, kd not." in lines
    assert f"Samples beside the nearest real images, the nearest first: {pairs}" in lines
    assert "dinov2_s14, fake" in progress
    found = [json.loads((tmp_path / f"{index}.json").read_text()) for index in range(4)]
    names = {f"{name}_dinov2_s14" for name in ("fd", "kd", "precision", "recall", "density", "coverage")}
    names |= {"memorisation_dinov2_s14", "nearest_ratio_dinov2_s14"}
    assert names <= set(found[0])
    assert (found[0]["num_fake"], found[0]["num_real"]) == (24, 20)
    with Image.open(pairs) as picture:
        assert picture.size == (4 * 130 + 2, 4 * 130 + 2)  # eight pairs in rows of two
    # The same images, packed, against the same statistics.
    assert found[2]["kd_dinov2_s14"] == pytest.approx(found[1]["kd_dinov2_s14"], rel=1e-5)
    with np.load(statistics) as file:
        assert str(file["features"]) == "dinov2_s14"
        assert int(file["num_images"]) == 20


def test_what_is_wrong_is_said_in_a_line(run, tmp_path):
    few = write_images(tmp_path / "few", 1, 0)
    other = write_images(tmp_path / "other", 5, 0, side=48)
    fake = write_images(tmp_path / "fake", 5, 1)
    empty = tmp_path / "empty"
    empty.mkdir()
    np.save(tmp_path / "nan.npy", np.full((4, 8, 8, 3), np.nan, np.float32))
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    weights = tmp_path / "pt_inception.pth"
    weights.write_bytes(b"cut")
    real = f"--real={other}"
    cases = [
        ([f"--fake={few}", real], f"--fake={few} holds 1 images that can be used; two or more are wanted."),
        ([f"--fake={empty}", real], f"--fake: the folder '{empty}' holds no .jpg"),
        ([f"--fake={fake}", f"--real={tmp_path / 'none'}"], "--real: there is nothing at"),
        ([f"--fake={fake}", real], "32x32, that of the real ones 48x48"),
        ([f"--fake={tmp_path / 'nan.npy'}", real], "--fake: "),
        (
            [f"--fake={fake}", f"--real={tmp_path / 'theirs.npz'}", "--metrics=fd"],
            "are of 2048 features, but --features=dinov2_s14",
        ),
        ([f"--fake={fake}", real, "--json=/proc/none/x.json"], "--json=/proc/none/x.json cannot be written"),
        ([f"--fake={fake}", real, "--metrics=fid"], "--metrics should be of fd"),
        (
            [f"--workdir={run}", "--metrics=fd_infinity"],
            "wants 2304 generated images or more, but there are 8",
        ),
        ([f"--fake={fake}", real, "--metrics=is"], "--metrics=is wants --features=inception"),
        ([f"--fake={fake}", real, "--features=inception"], "wants --inception_weights=pt_inception"),
        (
            [f"--fake={fake}", real, "--features=inception", f"--inception_weights={weights}"],
            "take it as it is by --inception_sha256=",
        ),
        ([f"--workdir={run}", "--step=best"], "there is no best checkpoint in"),
        ([f"--workdir={run}", "--step=5"], "there is no checkpoint of step 5"),
        ([f"--workdir={run}", "--resolution=64"], "--resolution=64, but the generator's images are 32 wide"),
        ([f"--workdir={tmp_path}"], "holds no run"),
        ([f"--fake={fake}"], "UsageError('--fake wants --real"),
        ([f"--fake={fake}", real, "--truncation=0.5"], "UsageError('--truncation is of samples of a run"),
        ([], "UsageError('one of --workdir, a run, and --fake"),
    ]
    lines, _ = evaluate(*(case[0] + ["--cache=", "--num=8"] for case in cases))
    ends = [line for line in lines if not line.startswith(("--fake: Left out", "--real: Left out"))]
    for (command, wanted), line in zip(cases, ends, strict=True):
        assert wanted in line, (command, line)
