"""Converts a folder, tar or TFDS data set to array_record, once.

python -m biggan.convert --source=folder --path=CelebA-HQ-img --out=data/celeba128 --resolution=128
"""

from absl import app, flags, logging
from tqdm import tqdm

from biggan.data import write_array_record
from biggan.sources import open_source

_SOURCE = flags.DEFINE_enum("source", "folder", ["folder", "tar", "tfds"], "what to convert.")
_PATH = flags.DEFINE_string("path", None, "where it is.", required=True)
_NAME = flags.DEFINE_string("name", "celeb_a_hq/128", "of the TFDS data set.")
_OUT = flags.DEFINE_string("out", None, "folder to write.", required=True)
_RESOLUTION = flags.DEFINE_integer("resolution", 128, "side of the images written.", lower_bound=1)
_CLASSES = flags.DEFINE_bool("classes", False, "the folder's subfolders are classes.")
_SKIP = flags.DEFINE_bool("skip_corrupt", False, "leave images out that cannot be used.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    source = open_source(_SOURCE.value, path=_PATH.value, name=_NAME.value, classes=_CLASSES.value)
    skipped = write_array_record(source, _OUT.value, _RESOLUTION.value, _SKIP.value, tqdm)
    for message in skipped:
        logging.warning("skipped: %s", message)
    print(f"{len(source) - len(skipped)} images in {_OUT.value}, {len(skipped)} skipped.")


if __name__ == "__main__":
    app.run(main)
