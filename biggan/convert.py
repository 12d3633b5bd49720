"""Converts a folder, tar or TFDS data set to array_record, once; with --check, says what it holds instead.

python -m biggan.convert --path=CelebA-HQ-img --out=data/celeba128 --resolution=128
python -m biggan.convert --path=CelebA-HQ-img --check

--path is on this machine or, as gs://, on another. --check reads all images. It prints how many there are,
their sizes, classes, what cannot be used and what was left out, and writes a sheet of 64 of them to --sheet.
It ends with status 1 if an image cannot be used and --skip_corrupt is not given.
"""

import os
import sys

from absl import app, flags, logging
from tqdm import tqdm

from biggan.data import write_array_record
from biggan.names import IN_CONFIG
from biggan.sources import Source, open_source
from biggan.survey import lines, save_sheet, survey
from training.command import start, without_traceback

_SOURCE = flags.DEFINE_enum(
    "source",
    "",
    ["", "folder", "tar", "zip", "arrays", "tfds", "array_record"],
    "what to read; default: what lies at --path.",
)
_PATH = flags.DEFINE_string("path", None, "where it is.", required=True)
_NAME = flags.DEFINE_string("name", "celeb_a_hq/128", "of the TFDS data set.")
_SPLIT = flags.DEFINE_string("split", "train", "of the TFDS data set.")
_OUT = flags.DEFINE_string("out", None, "folder to write; not with --check.")
_RESOLUTION = flags.DEFINE_integer("resolution", 128, "side of the images written.", lower_bound=1)
_CLASSES = flags.DEFINE_bool("classes", False, "keep classes: a folder's subfolders, or labels.")
_SKIP = flags.DEFINE_bool("skip_corrupt", False, "leave images out that cannot be used.")
_CHECK = flags.DEFINE_bool("check", False, "read all images, say what there is, write nothing but --sheet.")
_SHEET = flags.DEFINE_string("sheet", "sheet.png", "with --check: picture to write, of 64 images.")
_SEED = flags.DEFINE_integer("seed", 0, "with --check: draws those.", lower_bound=0)


def check(source: Source) -> int:
    """Prints what the source holds, and writes the sheet; the status to end with."""
    found = survey(source, _RESOLUTION.value, tqdm)
    print("\n".join(lines(source, found)))
    if found.seen:
        save_sheet(source, found.seen, _SHEET.value, _SEED.value)
        print(f"Sheet: {_SHEET.value}")
    return int(len(found.unusable) == len(source) or (bool(found.unusable) and not _SKIP.value))


def convert(source: Source, out: str) -> int:
    """Writes records to `out`; the status to end with."""
    for remark in source.remarks:
        print(remark)
    skipped = write_array_record(source, out, _RESOLUTION.value, _SKIP.value, tqdm)
    for message in skipped:
        logging.warning("skipped: %s", message)
    print(f"{len(source) - len(skipped)} images in {out}, {len(skipped)} skipped.")
    return 0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if bool(_OUT.value) == _CHECK.value:
        raise app.UsageError("either --out, the folder to write, or --check is wanted.")
    without_traceback(program, "--resolution")


def program() -> None:
    """Does what the flags say; what is wrong with the images ends it with status 1."""
    source = open_source(
        _SOURCE.value,
        path=_PATH.value,
        name=_NAME.value,
        split=_SPLIT.value,
        classes=_CLASSES.value,
        skip_corrupt=_SKIP.value,
        names={name: f"--{name}" for name in IN_CONFIG},
    )
    sys.exit(convert(source, os.path.expanduser(_OUT.value)) if _OUT.value else check(source))


if __name__ == "__main__":
    start(main)
