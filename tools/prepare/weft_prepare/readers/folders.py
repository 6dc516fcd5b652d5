"""Folders of files: LABEL/FILE, or SPLIT/LABEL/FILE; FILE alone has no label."""

import os

from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Dropped, Record, check_folder

TEXT_SUFFIXES = (".txt",)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_TEXT_BYTES = 64 << 20


def files_of(root):
    """(names of the folders below root, name of the file) of all files, in one order everywhere."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        parts = os.path.relpath(folder, root).split(os.sep) if folder != root else []
        for name in sorted(names):
            yield parts, name


class _FolderReader:
    label_names = None
    suffixes = ()
    column = ""

    def __init__(self, path):
        self.path = path.rstrip(os.sep) or path
        check_folder(path, f"one with a folder per label, {self.suffixes[0]} files in it")
        depths = {len(parts) for parts, name in files_of(self.path) if self._fits(name)}
        if not depths:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: no files {', '.join('*' + s for s in self.suffixes)} "
                               "there; give another folder")
        if len(depths) > 1 or max(depths) > 2:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: files lie {', '.join(map(str, sorted(depths)))} folders "
                               "deep, expected all in LABEL/ or all in SPLIT/LABEL/; move them")
        self._depth = depths.pop()
        self.columns = [self.column, *("label",)[:self._depth], *("split",)[:self._depth - 1]]

    def records(self):
        for parts, name in files_of(self.path):
            place = "/".join([*parts, name])
            fields = dict(zip(("label", "split"), reversed(parts)))
            fields[self.column] = (self._content(os.path.join(self.path, *parts, name)) if self._fits(name)
                                   else Dropped("file of another type"))
            yield Record(place, fields)

    def _fits(self, name):
        return os.path.splitext(name)[1].lower() in self.suffixes


class TextFolderReader(_FolderReader):
    suffixes = TEXT_SUFFIXES
    column = "text"

    def _content(self, path):
        with open(path, "rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            return Dropped(f"text of more than {MAX_TEXT_BYTES >> 20} MiB")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return Dropped("text that is not UTF-8")


class ImageFolderReader(_FolderReader):
    suffixes = IMAGE_SUFFIXES
    column = "image"

    def _content(self, path):
        return {"path": path, "bytes": None}
