"""The first reading of the input: which rows are wanted, the split of each, and what must hold before any is encoded."""

import array
import collections
import hashlib
import re
from typing import NamedTuple

import numpy as np

from weft_prepare.errors import PrepareError
from weft_prepare.labels import check_labels
from weft_prepare.progress import progress
from weft_prepare.readers.record import Dropped
from weft_prepare.tasks import Column

TRAIN, TEST = "train", "test"
MAX_SPLITS = 16
# Names of splits become those of files, names of clients those of folders.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
UNWANTED = -1


class Options(NamedTuple):
    label: Column | None = None
    split: Column | None = None
    client: Column | None = None
    clients: set | None = None  # names; None: all
    splits: set | None = None  # names; None: all
    test_fraction: float | None = None  # None: the split column decides
    seed: int = 0
    groups: tuple = ()  # Columns whose value each row keeps


class Selected(NamedTuple):
    """One entry for each row of the input, in its order. Codes are places in the lists of names."""

    splits: np.ndarray  # int16; UNWANTED: not wanted, or dropped
    labels: np.ndarray  # int32; UNWANTED where the task has none
    clients: np.ndarray  # int32; UNWANTED where there is no client column
    split_names: list
    label_names: list
    client_names: list
    dropped: collections.Counter  # reason -> rows
    groups: dict = {}  # by column: (int32 codes, names)


class _Codes:
    def __init__(self, names=(), typecode="i"):
        self.places = {name: i for i, name in enumerate(names)}
        self.codes = array.array(typecode)

    def of(self, name):
        return self.places.setdefault(name, len(self.places))

    def array(self, dtype):
        return np.array(self.codes, dtype)


def need_columns(reader, columns):
    """Each must be there, once."""
    for column in columns:
        found = list(reader.columns).count(column.name)
        if found == 1:
            continue
        what = f"{found} columns" if found else "no column"
        raise PrepareError("INVALID_ARGUMENT", f"{reader.path}: {what} \"{column.name}\" in the header line, expected "
                           f"one; found {', '.join(reader.columns) or 'an empty line'}; correct the header or give "
                           f"{column.option}")


def label_of(fields, column):
    """The name of a row's label; None where it has none."""
    value = fields.get(column.name)
    return None if value is None or value == "" else str(value)


class Selection:
    def __init__(self, reader, task, options):
        self._reader = reader
        self._task = task
        self._options = options
        self._limit = None if options.test_fraction is None else int(options.test_fraction * 2**64)
        self._salt = f"{options.seed}\n".encode() if options.seed else b""
        need_columns(reader, [*task.columns, *(c for c in (options.label, options.split, options.client, *options.groups) if c)])

    def read(self, labels):
        """Selected. `labels`: names in order; None: those of all rows, of all clients, who thus get the same ones."""
        splits, clients, found = _Codes(typecode="h"), _Codes(), _Codes(labels or self._own_names() or ())
        groups = {column.name: _Codes() for column in self._options.groups}
        known, dropped, any_of_split = len(found.places), collections.Counter(), set()
        for record in progress(self._reader.records(), "reading"):
            content = self._task.content(record.fields)
            split, client, label = self._place(record, content)
            if split is not None:
                any_of_split.add(split)
            wanted = self._wanted(split, client)
            if wanted and isinstance(content, Dropped):
                dropped[content.reason] += 1
                wanted = False
            for column, codes in groups.items():
                value = str(record.fields.get(column) or "")
                if wanted and not value:
                    dropped[f"missing {column}"] += 1
                    wanted = False
                codes.codes.append(codes.of(value) if wanted else UNWANTED)
            if self._options.label is not None:
                if wanted and label is None:
                    dropped["missing label"] += 1
                    wanted = False
                elif label is not None and labels is None:
                    found.of(label)  # of all rows
                elif wanted and label not in found.places:
                    raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: {record.place}: label \"{label}\" is "
                                       f"not among the {known} labels of --labels; correct the row or add the label "
                                       "there")
            splits.codes.append(splits.of(split) if wanted else UNWANTED)
            if len(any_of_split) > MAX_SPLITS:
                raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: {record.place}: more than {MAX_SPLITS} "
                                   f"splits in column \"{self._options.split.name}\"; name the right one by "
                                   "--split-column")
            found.codes.append(found.places.get(label, UNWANTED) if self._options.label else UNWANTED)
            clients.codes.append(clients.of(client) if client is not None else UNWANTED)
        if not splits.codes:
            raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: no rows, expected at least one")
        self._check_clients(clients.places)
        selected = self._selected(splits, clients, found, dropped, keep_order=labels is not None)
        selected = selected._replace(groups={column: (codes.array(np.int32), list(codes.places))
                                             for column, codes in groups.items()})
        self._check_splits(selected, any_of_split)
        return selected

    def _own_names(self):
        """Names that the input itself gives to its class ids, in their order."""
        names = self._reader.label_names or {}
        return names.get(self._options.label.name) if self._options.label is not None else None

    def _place(self, record, content):
        """(split, client, label) of a row; the split None where it is drawn by a content that is not there."""
        fields, options = record.fields, self._options
        if self._limit is None:
            split = str(fields.get(options.split.name) or "")
            self._check_name("split", split, record.place)
        elif isinstance(content, Dropped):
            split = None
        else:
            split = self._draw(self._task.key(content, record.place))
        client = None
        if options.client is not None:
            client = str(fields.get(options.client.name) or "")
        return split, client, None if options.label is None else label_of(fields, options.label)

    def _draw(self, key):
        number = int.from_bytes(hashlib.sha256(self._salt + key).digest()[:8], "big")
        return TEST if number < self._limit else TRAIN

    def _wanted(self, split, client):
        options = self._options
        if options.clients is not None and client not in options.clients:
            return False
        return split is None or options.splits is None or split in options.splits

    def _selected(self, splits, clients, found, dropped, keep_order):
        labels, names = found.array(np.int32), list(found.places)
        if not keep_order and not self._own_names():
            order = sorted(range(len(names)), key=names.__getitem__)
            ranks = np.empty(len(names) + 1, np.int32)
            ranks[order], ranks[UNWANTED] = np.arange(len(names)), UNWANTED
            labels, names = ranks[labels], [names[i] for i in order]
        if self._task.labelled:
            check_labels(self._reader.path, names)
        return Selected(splits.array(np.int16), labels, clients.array(np.int32), list(splits.places), names,
                        list(clients.places), dropped)

    def _check_name(self, what, name, place):
        if not NAME.fullmatch(name):
            raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: {place}: found {what} \"{name[:64]}\", "
                               f"expected a name of letters, digits, '_', '-' and '.', such as {TRAIN}")

    def _check_clients(self, found):
        missing = sorted((self._options.clients or set()) - set(found))
        if missing:
            raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: no row of client \"{missing[0]}\" in column "
                               f"\"{self._options.client.name}\", which names {len(found)} clients such as "
                               f"\"{min(found)}\"; correct --client or --clients-file")

    def _check_splits(self, selected, any_of_split):
        """Each split wanted, or found in the file, needs a row: daemons refuse an empty shard."""
        wanted = set(self._options.splits) if self._options.splits is not None else any_of_split | {TRAIN}
        if self._options.test_fraction:
            wanted.add(TEST)
        rows = {name: int(np.count_nonzero(selected.splits == code)) for code, name in enumerate(selected.split_names)}
        for split in sorted(wanted):
            if rows.get(split):
                continue
            of_whom = "" if self._options.clients is None else " of the clients named"
            others = ",".join(sorted(name for name, count in rows.items() if count and name != split)) or "NAME"
            raise PrepareError("INVALID_ARGUMENT", f"{self._reader.path}: split \"{split}\" is empty: no row{of_whom} "
                               f"is in it{told(selected.dropped)}; add rows, or leave it out by --splits {others}")


def told(dropped):
    """What was dropped, for a message; empty for nothing."""
    return "".join(f", {rows} dropped ({reason})" for reason, rows in dropped.most_common(3))
