"""Writes a data folder (training/data/shard.h): whole or not at all, the same bytes for the same rows."""

import array
import hashlib
import json
import os
import shutil
import sys
import tempfile

from weft_prepare.errors import PrepareError
from weft_prepare.labels import labels_text

MANIFEST = "manifest.json"
LABELS = "labels.txt"
SUFFIX = ".safetensors"
COPY_BYTES = 1 << 20


class SplitWriter:
    """Takes the rows of one split. Token ids go to disk at once; 12 bytes a row stay in memory."""

    def __init__(self, folder, name):
        self.name = name
        self.tokens = 0
        self._path = os.path.join(folder, name + SUFFIX)
        self._spill = tempfile.TemporaryFile(dir=folder)
        self._offsets = array.array("q", [0])
        self._labels = array.array("i")

    @property
    def rows(self):
        return len(self._labels)

    def add(self, ids, label):
        _little_endian(array.array("i", ids)).tofile(self._spill)
        self.tokens += len(ids)
        self._offsets.append(self.tokens)
        self._labels.append(label)

    def finish(self):
        """The split's entry in the manifest."""
        digest = hashlib.sha256()
        with open(self._path, "wb") as file:

            def put(data):
                digest.update(data)
                file.write(data)

            put(self._header())
            put(_little_endian(self._offsets).tobytes())
            self._spill.seek(0)
            while data := self._spill.read(COPY_BYTES):
                put(data)
            put(_little_endian(self._labels).tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.close()
        return {"file": self.name + SUFFIX, "rows": self.rows, "tokens": self.tokens, "sha256": digest.hexdigest()}

    def close(self):
        self._spill.close()

    def _header(self):
        # row_offsets first, so that its 8-byte elements are aligned: the order of Python's safetensors too.
        header, end = {}, 0
        for name, dtype, size, count in (("row_offsets", "I64", 8, self.rows + 1), ("input_ids", "I32", 4, self.tokens),
                                         ("labels", "I32", 4, self.rows)):
            header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [end, end + size * count]}
            end += size * count
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _little_endian(values):
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


class DataFolderWriter:
    """A context: writes beside `path`, and takes its place in finish(); leaves nothing behind when left before."""

    def __init__(self, path):
        self.path = os.path.realpath(path)
        check_replaceable(self.path)
        parent, name = os.path.split(self.path)
        os.makedirs(parent, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=parent)
        self._splits = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for split in self._splits.values():
            split.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def split(self, name):
        """The writer of a split, made when first asked for."""
        if name not in self._splits:
            self._splits[name] = SplitWriter(self._folder, name)
        return self._splits[name]

    def finish(self, labels, tokenizer_sha256, max_length):
        """The manifest, written."""
        splits = {name: self._splits[name].finish() for name in sorted(self._splits)}
        manifest = {"format": "weft-data", "version": 1, "task": "sequence_classification", "labels": labels,
                    "tokenizer_sha256": tokenizer_sha256, "max_length": max_length, "splits": splits}
        self._write(LABELS, labels_text(labels))
        self._write(MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self._folder, 0o777 & ~mask)  # mkdtemp's is for the owner alone
        self._replace()
        return manifest

    def _write(self, name, text):
        with open(os.path.join(self._folder, name), "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self):
        check_replaceable(self.path)
        old = None
        if os.path.exists(self.path):
            old = self._folder.removesuffix(".new") + ".old"
            os.rename(self.path, old)
        try:
            os.rename(self._folder, self.path)
        except BaseException:
            if old is not None:
                os.rename(old, self.path)
            raise
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_replaceable(path):
    """Refuses a folder whose loss would be one: only data folders, and empty ones, are written over."""
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path):
        raise PrepareError("ALREADY_EXISTS", f"{path}: found a file, expected a data folder of an earlier run or "
                           "nothing; give another --out")
    names = sorted(os.listdir(path))
    if not names:
        return
    if not _is_data_folder(path):
        raise PrepareError("ALREADY_EXISTS", f"{path}: found a folder that weft prepare has not made, expected a data "
                           "folder of an earlier run or nothing; give another --out")
    others = [name for name in names if name not in (MANIFEST, LABELS) and not name.endswith(SUFFIX)]
    if others:
        raise PrepareError("ALREADY_EXISTS", f"{path}: found \"{others[0]}\" beside the data, which would be lost; "
                           "move it away or give another --out")


def _is_data_folder(path):
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
            return json.load(file).get("format") == "weft-data"
    except (OSError, ValueError, AttributeError):
        return False
