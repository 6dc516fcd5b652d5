"""Images into pixels of the size that the base reads."""

import io

import numpy as np

from weft_prepare.encoder import check_base, read_json
from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Dropped

_BILINEAR = 2  # Pillow's number for it, which preprocessor_config.json names too
MAX_SIZE = 4096


class ImageFormat:
    """channels, height, width; mean and std per channel; how to resize. Options stand above the base's files."""

    def __init__(self, base=None, size=None, channels=None, mean=None, std=None):
        processor, config = {}, {}
        if base is not None:
            check_base(base)
            processor, config = read_json(base, "preprocessor_config.json"), read_json(base, "config.json")
        self.height, self.width = _size(base, size, processor, config)
        self.channels = channels or config.get("num_channels", 3)
        if self.channels not in (1, 3):
            raise PrepareError("INVALID_ARGUMENT", f"{base}: config.json has {self.channels} channels, expected 1 or 3")
        self.mean = self._per_channel("--image-mean", mean, processor.get("image_mean"))
        self.std = self._per_channel("--image-std", std, processor.get("image_std"))
        if min(self.std) <= 0:
            raise PrepareError("INVALID_ARGUMENT", f"--image-std {self.std}: expected numbers above 0")
        self._resample = processor.get("resample", _BILINEAR)

    def _per_channel(self, option, given, of_base):
        values = given or of_base or [0.5]
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if len(values) == 1:
            values *= self.channels
        if len(values) != self.channels or not all(isinstance(v, (int, float)) and np.isfinite(v) for v in values):
            raise PrepareError("INVALID_ARGUMENT", f"{option}: found {values}, expected {self.channels} numbers, one "
                               "for each channel")
        return [float(value) for value in values]

    def metadata(self):
        return {"image_mean": ",".join(map(repr, self.mean)), "image_std": ",".join(map(repr, self.std))}

    def decode(self, image):
        """[channels, height, width] uint8 of a 2-D array, or of {"path", "bytes"}; Dropped when it is no image."""
        from PIL import Image, ImageOps

        try:
            if isinstance(image, np.ndarray):
                found = Image.fromarray(image)
            else:
                content = image.get("bytes")
                if content is None:
                    with open(image["path"], "rb") as file:
                        content = file.read()
                found = Image.open(io.BytesIO(content))
                found.load()
                found = ImageOps.exif_transpose(found)
        except MemoryError:
            raise
        except Exception:  # Pillow's decoders raise many kinds
            return Dropped("unreadable image")
        if found.mode.startswith("I;16"):  # its own conversion cuts what is above 255
            found = Image.fromarray((np.asarray(found) >> 8).astype(np.uint8))
        elif found.mode in ("I", "F"):
            return Dropped("image of 32-bit values, of a range that the file does not tell")
        found = found.convert("L" if self.channels == 1 else "RGB")
        if found.size != (self.width, self.height):
            found = found.resize((self.width, self.height), self._resample)
        pixels = np.asarray(found, np.uint8)
        return pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _size(base, size, processor, config):
    """height, width"""
    found = size or processor.get("crop_size") or processor.get("size") or config.get("image_size")
    if isinstance(found, dict):
        found = [found.get("height"), found.get("width")]
    elif isinstance(found, int):
        found = [found, found]
    if isinstance(found, (list, tuple)) and len(found) == 2 and all(isinstance(n, int) and 1 <= n <= MAX_SIZE
                                                                    for n in found):
        return found
    raise PrepareError("INVALID_ARGUMENT", f"{base or 'no base'}: found no height and width of images from 1 to "
                       f"{MAX_SIZE} in preprocessor_config.json or config.json; give --image-size")
