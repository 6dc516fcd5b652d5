"""The idx files of MNIST and its successors: SPLIT-images-idx3-ubyte and SPLIT-labels-idx1-ubyte, gzipped or not."""

import gzip
import math
import os
import re
import zlib

import numpy as np

from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Record

_IMAGES = re.compile(r"(?P<split>.+)-images[-.]idx3-ubyte(\.gz)?")
_UNSIGNED_BYTE = 8


def is_images_file(name):
    return _IMAGES.fullmatch(name) is not None


def _labels_file(path):
    folder, name = os.path.split(path)
    name = name.replace("-images", "-labels").replace("idx3", "idx1").removesuffix(".gz")
    for candidate in (name, name + ".gz"):
        if os.path.exists(os.path.join(folder, candidate)):
            return os.path.join(folder, candidate)
    raise PrepareError("NOT_FOUND", f"{path}: no {name} beside it, with or without .gz; put the labels there")


class _IdxFile:
    """A context: an open file, behind its header. `shape`: rows first."""

    def __init__(self, path, dimensions):
        self.path = path
        self._file = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
        try:
            header = self._read(4)
            if header != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
                raise PrepareError("INVALID_ARGUMENT", f"{path}: starts with {header.hex()}, expected an idx file of "
                                   f"bytes in {dimensions} dimensions (0000080{dimensions}); fetch it again")
            self.shape = tuple(int(n) for n in np.frombuffer(self._read(4 * dimensions), ">u4"))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def rows(self):
        size = math.prod(self.shape[1:])
        for _ in range(self.shape[0]):
            yield self._read(size)
        if self._bytes(1):
            raise PrepareError("INVALID_ARGUMENT", f"{self.path}: goes on behind the {self.shape[0]} rows of its "
                               "header; fetch it again")

    def _read(self, size):
        data = self._bytes(size)
        if len(data) < size:
            raise PrepareError("INVALID_ARGUMENT", f"{self.path}: ends too early, expected the rows that its header "
                               "counts; fetch it again")
        return data

    def _bytes(self, size):
        try:
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise PrepareError("INVALID_ARGUMENT", f"{self.path}: cannot be unpacked ({error}); fetch it "
                               "again") from None


class IdxReader:
    """A file of images, or a folder of them; labels lie beside. Split t10k is called test, as its makers do."""

    columns = ("image", "label", "split")

    def __init__(self, path):
        self.path = path
        folder = os.path.isdir(path)
        files = [os.path.join(path, name) for name in sorted(os.listdir(path))] if folder else [path]
        found = [(file, _IMAGES.fullmatch(os.path.basename(file))) for file in files]
        self._files = []
        for file, match in found:
            if match:
                split = match["split"].replace("t10k", "test")
                self._files.append((split, file, _labels_file(file)))
        if not self._files:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: no file SPLIT-images-idx3-ubyte, with or without .gz; "
                               "give one, or a folder of them")
        largest = 0
        for _, images, labels in self._files:
            with _IdxFile(images, 3) as image_file, _IdxFile(labels, 1) as label_file:
                if image_file.shape[0] != label_file.shape[0]:
                    raise PrepareError("INVALID_ARGUMENT", f"{images}: {image_file.shape[0]} images but "
                                       f"{label_file.shape[0]} labels in {labels}; fetch them again")
                if 0 in image_file.shape[1:]:
                    raise PrepareError("INVALID_ARGUMENT", f"{images}: images without pixels; fetch it again")
                largest = max(largest, max((row[0] for row in label_file.rows()), default=0))
        self.label_names = {"label": [str(label) for label in range(largest + 1)]}

    def records(self):
        for split, images, labels in self._files:
            with _IdxFile(images, 3) as image_file, _IdxFile(labels, 1) as label_file:
                for number, (pixels, label) in enumerate(zip(image_file.rows(), label_file.rows(), strict=True), 1):
                    image = np.frombuffer(pixels, np.uint8).reshape(image_file.shape[1:])
                    yield Record(f"{split} row {number}", {"image": image, "label": str(label[0]), "split": split})
