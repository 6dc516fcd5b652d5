"""A JSON object a line. Read line by line, so that a fault is told by its line and rows may differ in their types."""

import json

from weft_prepare.errors import PrepareError
from weft_prepare.readers.record import Record, check_file, lines

MAX_LINE_BYTES = 64 << 20


class JsonlReader:
    """The columns are the names in the first object; a later object may lack some, which then have no value."""

    label_names = None

    def __init__(self, path):
        self.path = path
        check_file(path, "a file with a JSON object a line")
        first = next(self.records(), None)
        if first is None:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: empty file, expected a JSON object a line")
        self.columns = list(first.fields)

    def records(self):
        with open(self.path, "rb") as file:
            for number, line in enumerate(lines(self.path, file, MAX_LINE_BYTES), 1):
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line)
                except ValueError as error:
                    raise PrepareError("INVALID_ARGUMENT", f"{self.path}: line {number} is not JSON ({error}); "
                                       "expected one object a line") from None
                if not isinstance(fields, dict):
                    raise PrepareError("INVALID_ARGUMENT", f"{self.path}: line {number} is a JSON "
                                       f"{type(fields).__name__}, expected one object a line")
                yield Record(f"line {number}", fields)
