"""Images in one NumPy array, of an .npy or .npz file."""

import io

import numpy as np
from etils import epath

from biggan.images import Element, to_rgb
from biggan.names import IN_CONFIG, Names
from training.files import is_remote


class Arrays:
    """The images of an array [N, H, W, C], uint8; C: 1 (gray), 3 or 4. It has no classes.

    An .npy file of this machine is not read into memory. An .npz file holds one such array, by any name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or holds no such array.
    """

    class_names: list[str] | None = None

    def __init__(self, path: str, names: Names = IN_CONFIG):
        file = epath.Path(path)
        if not file.exists() or file.is_dir():
            raise FileNotFoundError(f"{names['path']}: there is no file {path!r}.")
        try:
            if path.endswith(".npy") and not is_remote(path):
                found = {"the array": np.load(path, mmap_mode="r")}
            else:
                loaded = np.load(io.BytesIO(file.read_bytes()))
                found = {"the array": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        except Exception as error:  # of damaged files, of many kinds
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{names['path']}: cannot read {path!r}: {what.rstrip('.')}.") from error
        fitting = {name: array for name, array in found.items() if _are_images(array)}
        if len(fitting) != 1:
            what = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in found.items())
            floats = any(array.dtype.kind == "f" for array in found.values())
            way_out = " Floats have to be scaled to 0 .. 255 and rounded." if floats else ""
            raise ValueError(
                f"{names['path']}: {path!r} should hold one array of images, uint8 [N, height, width, 3], "
                f"but holds {what or 'nothing'}.{way_out}"
            )
        (self._images,) = fitting.values()
        self._path, self.remarks = path, list[str]()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Element:
        name = f"{index} of {self._path}"
        return Element(image=to_rgb(np.array(self._images[index]), name), label=0, name=name)


def _are_images(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.size > 0
