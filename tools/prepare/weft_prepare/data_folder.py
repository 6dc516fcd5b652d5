"""Writes data folders (training/data/shard.h): whole or not at all, the same bytes for the same rows."""

import array
import hashlib
import json
import os
import shutil
import sys
import tempfile

import numpy as np

from weft_prepare.errors import PrepareError
from weft_prepare.labels import labels_text
from weft_prepare.progress import progress

MANIFEST = "manifest.json"
LABELS = "labels.txt"
CLIENTS = "clients"
SUFFIX = ".safetensors"
DATA_FORMAT, CLIENTS_FORMAT = "weft-data", "weft-clients"
WRITE_BYTES = 1 << 20

_SIZES = {"I64": 8, "I32": 4, "U8": 1}


class RowStore:
    """Rows in the order they come. Values go to disk at once; some 20 bytes a row stay in memory."""

    def __init__(self, folder, task):
        self.task = task
        self._values = tempfile.TemporaryFile(dir=folder)  # tokens or pixels
        self._learn = tempfile.TemporaryFile(dir=folder) if task.learns else None
        self._ends = array.array("q", [0])  # of texts, in tokens
        self._labels, self._groups = array.array("i"), array.array("q")
        self._numbers = array.array("q")  # of the rows in the input

    def __len__(self):
        return len(self._groups)

    def add(self, row, label, group, number):
        """`row` as the task encodes it; `group`: which file it goes to; `number`: of the row in the input."""
        if self.task.texts_per_row == 0:
            self._values.write(row.tobytes())
        for text in row if self.task.texts_per_row else ():
            ids = text
            if self.task.learns:
                ids, learn = text
                self._learn.write(bytes(learn))
            _little_endian(array.array("i", ids)).tofile(self._values)
            self._ends.append(self._ends[-1] + len(ids))
        self._labels.append(label)
        self._groups.append(group)
        self._numbers.append(number)

    def written_groups(self):
        return set(self._groups)

    def close(self):
        self._values.close()
        if self._learn is not None:
            self._learn.close()

    def finish(self, columns):
        """Maps what was added; `groups` and `files` after it. `columns`: {name: (codes by number, names)}; returns
        {name: names that occur, sorted}."""
        numbers, names = np.array(self._numbers, np.int64), {}
        self.columns = {}
        for column, (codes, all_names) in columns.items():
            own = codes[numbers]
            order = sorted(np.unique(own).tolist(), key=all_names.__getitem__)
            ranks = np.zeros(len(all_names), np.int32)
            ranks[order] = np.arange(len(order))
            self.columns[column], names[column] = ranks[own], [all_names[i] for i in order]
        self.groups = np.array(self._groups, np.int64)
        self.labels = np.array(self._labels, np.int32)
        self.ends = np.array(self._ends, np.int64)
        self.values = _mapped(self._values)
        self.learn = _mapped(self._learn) if self._learn is not None else None
        return names

    def rows_by_group(self):
        """(group, its rows in order) for each group."""
        order = np.argsort(self.groups, kind="stable")
        cuts = np.flatnonzero(np.diff(self.groups[order])) + 1
        for rows in np.split(order, cuts) if len(order) else ():
            yield int(self.groups[rows[0]]), rows

    def tokens(self, rows):
        per_row = self.task.texts_per_row
        return int((self.ends[rows * per_row + per_row] - self.ends[rows * per_row]).sum()) if per_row else 0

    def write(self, path, rows):
        """A split's file; returns its SHA-256."""
        digest = hashlib.sha256()
        with open(path, "wb", buffering=WRITE_BYTES) as file:
            for data in self._parts(rows):
                digest.update(data)
                file.write(data)
        return digest.hexdigest()

    def _parts(self, rows):
        # Wider elements first, so that each tensor is aligned to its own: the order of Python's safetensors too.
        tensors, metadata = [], {}
        per_row = self.task.texts_per_row
        labels = ("labels", "I32", [len(rows)], lambda: [self.labels[rows].astype("<i4").tobytes()])
        columns = [(f"group.{name}", "I32", [len(rows)], lambda codes=codes: [codes[rows].astype("<i4").tobytes()])
                   for name, codes in self.columns.items()]
        if per_row:
            texts = (rows[:, None] * per_row + np.arange(per_row)).reshape(-1)
            starts, ends = self.ends[texts], self.ends[texts + 1]
            offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype("<i8")
            tokens = int(offsets[-1])
            tensors.append(("row_offsets", "I64", [len(offsets)], lambda: [offsets.tobytes()]))
            tensors += columns
            tensors.append(("input_ids", "I32", [tokens], lambda: _pieces(self.values, starts * 4, ends * 4)))
            if self.task.learns:
                tensors.append(("learn", "U8", [tokens], lambda: _pieces(self.learn, starts, ends)))
            if self.task.labelled:
                tensors.append(labels)
        else:
            image = self.task.format
            shape = [image.channels, image.height, image.width]
            size = int(np.prod(shape))
            tensors = [*columns, labels, ("pixels", "U8", [len(rows), *shape],
                                lambda: _pieces(self.values, rows * size, (rows + 1) * size))]
            metadata = image.metadata()
        yield _header(tensors, metadata)
        for _, _, _, pieces in tensors:
            yield from pieces()


def _header(tensors, metadata):
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, dtype, shape, _ in tensors:
        size = _SIZES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(file):
    file.flush()
    empty = os.fstat(file.fileno()).st_size == 0
    return np.zeros(0, np.uint8) if empty else np.memmap(file, np.uint8, "r")


def _pieces(values, starts, ends):
    """The bytes of ranges one after another; neighbours come as one."""
    begin = end = 0
    for start, stop in zip(starts.tolist(), ends.tolist()):
        if start == end and end - begin < WRITE_BYTES:
            end = stop
            continue
        yield values[begin:end].tobytes()
        begin, end = start, stop
    yield values[begin:end].tobytes()


def _little_endian(values):
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


class DataFolderWriter:
    """A context: writes beside `path`, and takes its place in finish(); leaves nothing behind when left before."""

    def __init__(self, path, task):
        self.path = os.path.realpath(path)
        check_replaceable(self.path)
        parent, name = os.path.split(self.path)
        os.makedirs(parent, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=parent)
        self._mask = os.umask(0)
        os.umask(self._mask)
        self.rows = RowStore(self._folder, task)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.rows.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, facts, split_names, client_names=None, partition=None, columns=None):
        """Writes rows of group client * len(split_names) + split; returns rows and tokens by client and split.

        `facts`: members of each manifest. `client_names` None: one data folder, no clients. `columns`: as RowStore's.
        """
        names = self.rows.finish(columns or {})
        if names:
            facts = {**facts, "groups": names}
        splits = len(split_names)
        found = {}
        for group, rows in progress(self.rows.rows_by_group(), "writing", "files"):
            client, split = divmod(group, splits)
            name = split_names[split]
            folder = self._folder if client_names is None else os.path.join(self._folder, CLIENTS, client_names[client])
            os.makedirs(folder, exist_ok=True)
            digest = self.rows.write(os.path.join(folder, name + SUFFIX), rows)
            entry = {"file": name + SUFFIX, "rows": len(rows)}
            if self.rows.task.texts_per_row:
                entry["tokens"] = self.rows.tokens(rows)
            found.setdefault(client, {})[name] = {**entry, "sha256": digest}
        for client, entries in found.items():
            folder = self._folder if client_names is None else os.path.join(self._folder, CLIENTS, client_names[client])
            self._write_manifest(folder, {"format": DATA_FORMAT, "version": 1, **facts,
                                          "splits": {name: entries[name] for name in sorted(entries)}})
        if client_names is not None:
            rows_of = {client_names[client]: {name: entries[name]["rows"] for name in sorted(entries)}
                       for client, entries in sorted(found.items())}
            self._write_manifest(self._folder, {"format": CLIENTS_FORMAT, "version": 1, **facts, "partition": partition,
                                                "clients": rows_of})
        self.rows.close()
        os.sync()  # all at once: file by file, thousands of clients would take minutes
        os.chmod(self._folder, 0o777 & ~self._mask)  # mkdtemp's is for the owner alone
        self._replace()
        return found

    def _write_manifest(self, folder, manifest):
        if manifest["labels"]:
            self._write(folder, LABELS, labels_text(manifest["labels"]))
        self._write(folder, MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    @staticmethod
    def _write(folder, name, text):
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

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
    clients = os.path.join(path, CLIENTS)
    if os.path.isdir(clients):
        names.remove(CLIENTS)
        for name in os.listdir(clients):
            check_replaceable(os.path.join(clients, name))
    others = [name for name in names if name not in (MANIFEST, LABELS) and not name.endswith(SUFFIX)]
    if others:
        raise PrepareError("ALREADY_EXISTS", f"{path}: found \"{others[0]}\" beside the data, which would be lost; "
                           "move it away or give another --out")


def _is_data_folder(path):
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
            return json.load(file).get("format") in (DATA_FORMAT, CLIENTS_FORMAT)
    except (OSError, ValueError, AttributeError):
        return False
