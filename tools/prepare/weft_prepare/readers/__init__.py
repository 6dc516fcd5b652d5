"""Inputs, one module per kind. A reader has `path`, `columns` and `records()`, which may be called again.

Its `label_names`: column -> names of its classes in the order of their ids, where the input has them; else None.
"""

import os

from weft_prepare.errors import PrepareError
from weft_prepare.readers import delimited, folders, idx, jsonl, tables

_READERS = {
    "tsv": delimited.TsvReader,
    "csv": delimited.CsvReader,
    "jsonl": jsonl.JsonlReader,
    "parquet": tables.ParquetReader,
    "dataset": tables.SavedDatasetReader,
    "text-folder": folders.TextFolderReader,
    "image-folder": folders.ImageFolderReader,
    "idx": idx.IdxReader,
}

_KINDS_OF_SUFFIXES = {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl",
                      ".json": "jsonl", ".parquet": "parquet"}


def _kind_of_folder(path):
    names = os.listdir(path)
    if any(idx.is_images_file(name) for name in names):
        return "idx"
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    if "dataset_info.json" in names and "state.json" in names:
        return "dataset"
    for _, name in folders.files_of(path):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in folders.IMAGE_SUFFIXES:
            return "image-folder"
        if suffix in folders.TEXT_SUFFIXES:
            return "text-folder"
    return None


def kind_of(path):
    """Told by the name of a file or, of a folder, by what lies in it."""
    if not os.path.exists(path):
        raise PrepareError("NOT_FOUND", f"{path}: no such file or folder; give the data to prepare")
    if os.path.isdir(path):
        kind = _kind_of_folder(path)
    elif idx.is_images_file(os.path.basename(path)):
        kind = "idx"
    else:
        kind = _KINDS_OF_SUFFIXES.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise PrepareError("INVALID_ARGUMENT", f"{path}: cannot tell what kind of input this is; give --kind, one of "
                           f"{', '.join(_READERS)}")
    return kind


def open_reader(path, kind):
    if not os.path.exists(path):
        raise PrepareError("NOT_FOUND", f"{path}: no such file or folder; give the data to prepare")
    return _READERS[kind](path)
