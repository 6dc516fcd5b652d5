"""Parquet files and folders saved by `datasets`, read by that library: streamed, or mapped from disk."""

import os
import shutil
import tempfile
import weakref

from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Record, check_folder


def _library():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched
    os.environ.setdefault("USE_TORCH", "0")  # nor made a tensor: half a gigabyte that the library would load
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is raised too
    return datasets


class _TableReader:
    """Class ids of a ClassLabel column become names, in the order of the ids; images stay bytes or paths."""

    def __init__(self, path):
        self.path = path
        try:
            self._rows = self._open(_library())
            features = dict(self._rows.features)
        except (PrepareError, ImportError, MemoryError):
            raise
        except Exception as error:  # pyarrow's and datasets' own kinds
            raise PrepareError("INVALID_ARGUMENT", f"{path}: cannot be read as {self.what} ({error}); give a whole "
                               "one, or another --kind") from None
        self.columns = list(features)
        self._names = {}
        for name, feature in features.items():
            kind = type(feature).__name__
            if kind == "ClassLabel":
                self._names[name] = feature.names
            elif kind == "Image":
                self._rows = self._rows.cast_column(name, _library().Image(decode=False))

    @property
    def label_names(self):
        """Column -> names of its classes."""
        return self._names

    def records(self):
        for number, fields in enumerate(self._rows, 1):
            for column, names in self._names.items():
                value = fields[column]
                fields[column] = names[value] if value is not None and value >= 0 else None
            yield Record(f"row {number}", fields)


class ParquetReader(_TableReader):
    """A file, or all files of a folder in the order of their names."""

    what = "Parquet"

    def _open(self, library):
        files = [self.path]
        if os.path.isdir(self.path):
            names = sorted(name for name in os.listdir(self.path) if name.endswith(".parquet"))
            files = [os.path.join(self.path, name) for name in names]
            if not files:
                raise PrepareError("INVALID_ARGUMENT", f"{self.path}: no file *.parquet there; give another folder")
        cache = tempfile.mkdtemp(prefix="weft-prepare-")  # the library keeps a lock there
        weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        return library.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)


class SavedDatasetReader(_TableReader):
    """A folder of Dataset.save_to_disk."""

    what = "a dataset saved to disk"

    def _open(self, library):
        check_folder(self.path, "one that Dataset.save_to_disk wrote")
        return library.load_from_disk(self.path)
