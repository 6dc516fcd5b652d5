"""Rows of a file with a header line, their fields separated by tabs or by commas."""

import csv

from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Record, check_file, lines

MAX_LINE_BYTES = 16 << 20


class _DelimitedReader:
    """Checks the header at construction; the file is never held in memory."""

    label_names = None
    dialect = {}  # of csv.reader
    separator = ""

    def __init__(self, path):
        self.path = path
        check_file(path, f"a {self.separator}-separated file")
        with open(path, "rb") as file:
            _, header = next(self._rows(file), (0, None))
        if header is None:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: empty file, expected a header line and rows")
        self.columns = header

    def records(self):
        with open(self.path, "rb") as file:
            rows = self._rows(file)
            next(rows, None)
            for line, fields in rows:
                if len(fields) != len(self.columns):
                    found = f"{len(fields)} fields" if fields else "an empty line"
                    raise PrepareError("INVALID_ARGUMENT", f"{self.path}: line {line}: found {found}, expected "
                                       f"{len(self.columns)} fields separated by {self.separator}s, as in the header "
                                       "line")
                yield Record(f"line {line}", dict(zip(self.columns, fields)))

    def _rows(self, file):
        csv.field_size_limit(MAX_LINE_BYTES)
        reader = csv.reader(lines(self.path, file, MAX_LINE_BYTES), **self.dialect)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise PrepareError("INVALID_ARGUMENT", f"{self.path}: line {reader.line_num}: {error}; expected one "
                                   f"row a line, its fields separated by {self.separator}s") from None
            yield reader.line_num, fields


class TsvReader(_DelimitedReader):
    """A field holds neither a tab nor a line end; quotes mean nothing."""

    dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    separator = "tab"


class CsvReader(_DelimitedReader):
    """RFC 4180: a field in quotes may hold commas, line ends and doubled quotes."""

    dialect = {"strict": True}
    separator = "comma"
