"""Images in records: of TensorFlow Datasets, and of `python -m biggan.convert`."""

import json
from typing import Any

import flax.serialization
import grain
import numpy as np
from etils import epath

from biggan.images import Element, decode, to_rgb, usable
from biggan.names import IN_CONFIG, Names, way_out


class TFDS:
    """A prepared TensorFlow Datasets folder of array_record files; TensorFlow is not imported.

    classes: its labels are the classes; else all labels are 0.

    Raises:
        FileNotFoundError: not prepared.
        ValueError: damaged, no such split, no images in it or, with `classes`, no names of classes.
    """

    def __init__(
        self, name: str, path: str | None, split: str, classes: bool = False, names: Names = IN_CONFIG
    ):
        import tensorflow_datasets as tfds

        self._source: Any
        if path and (epath.Path(path) / "features.json").exists():
            try:
                self._source = tfds.builder_from_directory(path).as_data_source(split)
            except Exception as error:  # of many kinds
                raise ValueError(
                    f"{names['path']}: cannot read the data set {path!r}, split {split!r}: {error}"
                ) from error
        else:
            try:
                self._source = tfds.data_source(name, split=split, data_dir=path or None, download=False)
            except (AssertionError, OSError, NotImplementedError) as error:
                raise FileNotFoundError(
                    f"there is no prepared data set {name!r} in {names['path']}={path!r}: {error}. "
                    "Prepare it on a machine with TensorFlow: tfds build "
                    f"{name} --file_format=array_record."
                ) from error
        features = self._source.dataset_info.features
        if "image" not in features:
            raise ValueError(f"the data set in {names['path']} has no images, but {', '.join(features)}.")
        found = getattr(features["label"], "names", None) if "label" in features else None
        self._classes = classes
        self.class_names, self.remarks = _chosen(found, classes, "the data set's features", names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        name = f"example {index}"

        def read() -> Element:
            example = self._source[index]
            label = int(example["label"]) if self._classes else 0
            return Element(image=to_rgb(np.asarray(example["image"]), name), label=label, name=name)

        return usable(name, read)


class ArrayRecord:
    """A folder that `python -m biggan.convert` wrote. Files of gs:// are opened by grain's reader itself.

    classes: its labels are the classes; else all labels are 0. skip_corrupt: records may be missing.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that cannot be opened, records missing or, with `classes`, no names of classes.
    """

    def __init__(
        self, path: str, classes: bool = False, skip_corrupt: bool = False, names: Names = IN_CONFIG
    ):
        folder = epath.Path(path)
        info_file = folder / "info.json"
        if not info_file.exists():
            raise FileNotFoundError(
                f"{names['path']}: there is no {str(info_file)!r}; python -m biggan.convert writes it."
            )
        try:
            info = json.loads(info_file.read_text())
            self.resolution, expected = info["resolution"], info["images"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{names['path']}: {str(info_file)!r} is damaged ({error}).") from error
        files = sorted(str(file) for file in folder.iterdir() if file.name.endswith(".array_record"))
        if not files:
            raise FileNotFoundError(f"{names['path']}: there are no array_record files in {path!r}.")
        self._source = _open_records(files, names)
        self._classes = classes
        self.class_names, self.remarks = _chosen(info.get("class_names"), classes, str(info_file), names)
        if len(self._source) != expected:
            fault = f"The files in {path!r} hold {len(self._source)} records, info.json says {expected}."
            if not skip_corrupt:
                raise ValueError(f"{names['path']}: {fault} {way_out(names, 'to go on')}")
            self.remarks.insert(0, fault)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        def read() -> Element:
            record = flax.serialization.msgpack_restore(self._source[index])
            name = str(record["name"])
            label = int(record["label"]) if self._classes else 0
            return Element(image=decode(record["png"], name), label=label, name=name)

        return usable(f"of record {index}", read)


def _open_records(files: list[str], names: Names) -> Any:
    try:
        return grain.sources.ArrayRecordDataSource(files)
    except Exception:
        for file in files:
            try:
                grain.sources.ArrayRecordDataSource([file])
            except Exception as error:
                raise ValueError(f"{names['path']}: cannot open {file!r}: {error}") from error
        raise


def _chosen(
    found: list[str] | None, classes: bool, where: str, names: Names
) -> tuple[list[str] | None, list[str]]:
    """Names of classes if there are to be some, and remarks if there are to be none."""
    if not classes:
        return None, [f"The data's {len(found)} classes are not used."] if found else []
    if not found:
        raise ValueError(f"classes are wanted, but {where} in {names['path']} names none (class_names).")
    return list(found), []
