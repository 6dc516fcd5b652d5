"""Rows of a tab-separated file with a header line. A field holds neither a tab nor a line end; quotes mean nothing."""

import csv
import os
import stat
from typing import NamedTuple

from weft_prepare.errors import PrepareError

# Bounds what one line may take of memory, say when the file is no text at all.
MAX_LINE_BYTES = 16 << 20


class Columns(NamedTuple):
    """Names in the header; `split` and `client` are None where the file need not have them."""

    label: str
    text: str
    split: str | None
    client: str | None


class Row(NamedTuple):
    line: int  # counted from 1, the header's
    label: str
    text: str
    split: str | None
    client: str | None


def _lines(path, file):
    """Decoded lines; one that is not UTF-8 is told by its number."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB, "
                               "expected a tab-separated text file; split the text into rows")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: line {number} is not UTF-8 (byte {error.start + 1} is "
                               f"0x{raw[error.start]:02x}); convert the file, for example with iconv -t "
                               "UTF-8") from None


def _records(path, file):
    reader = csv.reader(_lines(path, file), delimiter="\t", quoting=csv.QUOTE_NONE)
    csv.field_size_limit(MAX_LINE_BYTES)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: line {reader.line_num}: {error}; expected one row a line, "
                               "its fields separated by tabs") from None


def _find_column(path, header, name, option):
    if header.count(name) == 1:
        return header.index(name)
    what = f"{header.count(name)} columns" if name in header else "no column"
    raise PrepareError("INVALID_ARGUMENT", f"{path}: {what} \"{name}\" in the header line, expected one; found "
                       f"{', '.join(header) or 'an empty line'}; correct the header or give {option}")


class TsvFile:
    """Checks the header at construction; rows() may be called again, so the file is never held in memory.

    `split_column` None: the column "split" is taken where there is one.
    """

    def __init__(self, path, label_column="label", text_column="text", split_column=None, client_column=None):
        self.path = path
        if not os.path.exists(path):
            raise PrepareError("NOT_FOUND", f"{path}: no such file; give a tab-separated file with a header line")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise PrepareError("INVALID_ARGUMENT", f"{path}: not a regular file, and it is read twice; give a "
                               "tab-separated file")
        with open(path, "rb") as file:
            header = next(_records(path, file), None)
        if header is None:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: empty file, expected a header line and rows")
        if split_column is None and "split" in header:
            split_column = "split"
        self.columns = Columns(label_column, text_column, split_column, client_column)
        self._fields = len(header)
        options = ("--label-column", "--text-column", "--split-column", "--client-column")
        self._places = [None if name is None else _find_column(path, header, name, option)
                        for name, option in zip(self.columns, options)]

    def rows(self):
        with open(self.path, "rb") as file:
            for number, fields in enumerate(_records(self.path, file), 1):
                if number == 1:
                    continue
                if len(fields) != self._fields:
                    found = f"{len(fields)} fields" if fields else "an empty line"
                    raise PrepareError("INVALID_ARGUMENT", f"{self.path}: line {number}: found {found}, expected "
                                       f"{self._fields} fields separated by tabs, as in the header line")
                yield Row(number, *(None if place is None else fields[place] for place in self._places))
