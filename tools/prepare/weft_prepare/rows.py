"""Which rows of a file are wanted, in which split each is, and what must hold for them before any is encoded."""

import hashlib
import re

from weft_prepare.errors import PrepareError
from weft_prepare.labels import check_labels

TRAIN, TEST = "train", "test"
MAX_SPLITS = 16
# A split's name becomes a file's.
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Selection:
    """Rows of the wanted clients and splits. `clients`, `splits`: sets of names, None for all.

    `test_fraction` None: the split column decides. Else a hash of the text does, so that equal texts are in one split.
    """

    def __init__(self, tsv, clients=None, splits=None, test_fraction=None):
        self._tsv = tsv
        self._clients = clients
        self._splits = splits
        self._limit = None if test_fraction is None else int(test_fraction * 2**64)
        self._test_fraction = test_fraction

    def rows(self):
        """(row, split) of the wanted rows, in the file's order."""
        for row in self._tsv.rows():
            if self._clients is not None and row.client not in self._clients:
                continue
            split = self._split_of(row)
            if self._splits is None or split in self._splits:
                yield row, split

    def _split_of(self, row):
        if self._limit is None:
            return row.split
        number = int.from_bytes(hashlib.sha256(row.text.encode()).digest()[:8], "big")
        return TEST if number < self._limit else TRAIN

    def check(self, labels):
        """Reads the file once, so that a fault in the last line does not cost the encoding of those before it.

        Returns the labels: those given, or every label of the file, sorted: of all clients, who thus get the same ones.
        """
        path = self._tsv.path
        known = None if labels is None else set(labels)
        found_labels, found_clients, rows = set(), set(), {}
        for row in self._tsv.rows():
            split = self._split_of(row)
            self._check_split(row, split)
            found_labels.add(row.label)
            if labels is None and not row.label:
                self._refuse_empty_label(row)
            rows.setdefault(split, 0)
            if len(rows) > MAX_SPLITS:
                raise PrepareError("INVALID_ARGUMENT", f"{path}: line {row.line}: more than {MAX_SPLITS} splits in "
                                   f"column \"{self._tsv.columns.split}\"; name the right one by --split-column")
            if self._clients is not None:
                found_clients.add(row.client)
                if row.client not in self._clients:
                    continue
            if self._splits is None or split in self._splits:
                rows[split] += 1
                self._check_label(row, known)
        if not rows:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: no rows below the header line, expected at least one")
        self._check_clients(found_clients)
        self._check_splits(rows)
        return labels if labels is not None else check_labels(path, sorted(found_labels))

    def _check_split(self, row, split):
        if not SPLIT_NAME.fullmatch(split):
            raise PrepareError("INVALID_ARGUMENT", f"{self._tsv.path}: line {row.line}: found split \"{split[:64]}\", "
                               "expected a name of letters, digits, '_', '-' and '.', such as train")

    def _check_label(self, row, known):
        if not row.label:
            self._refuse_empty_label(row)
        if known is not None and row.label not in known:
            raise PrepareError("INVALID_ARGUMENT", f"{self._tsv.path}: line {row.line}: label \"{row.label}\" is not "
                               f"among the {len(known)} labels of --labels; correct the row or add the label there")

    def _refuse_empty_label(self, row):
        raise PrepareError("INVALID_ARGUMENT", f"{self._tsv.path}: line {row.line}: empty label; name it or "
                           "remove the row")

    def _check_clients(self, found):
        missing = sorted((self._clients or set()) - found)
        if missing:
            raise PrepareError("INVALID_ARGUMENT", f"{self._tsv.path}: no row of client \"{missing[0]}\" in column "
                               f"\"{self._tsv.columns.client}\", which names {len(found)} clients such as "
                               f"\"{min(found)}\"; correct --client or --clients-file")

    def _check_splits(self, rows):
        """Each split wanted, or found in the file, needs a row: daemons refuse an empty shard."""
        wanted = self._splits if self._splits is not None else set(rows)
        if self._test_fraction:
            wanted = wanted | {TEST}
        if self._splits is None:
            wanted = wanted | {TRAIN}
        for split in sorted(wanted):
            if rows.get(split):
                continue
            of_whom = "" if self._clients is None else " of the clients named"
            raise PrepareError("INVALID_ARGUMENT", f"{self._tsv.path}: split \"{split}\" is empty: no row{of_whom} is "
                               f"in it; add rows, or leave it out by --splits {self._others(rows, split)}")

    @staticmethod
    def _others(rows, split):
        return ",".join(sorted(name for name, count in rows.items() if count and name != split)) or "NAME"
