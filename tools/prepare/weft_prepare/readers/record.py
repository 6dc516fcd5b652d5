"""What readers give."""

import os
import stat
from typing import NamedTuple

from weft_prepare.errors import PrepareError


class Record(NamedTuple):
    place: str  # in the input, for messages: "line 3", "row 3", "cat/1.png"
    fields: dict  # column -> value


class Dropped(NamedTuple):
    """In the place of a value: why the row cannot be used. Counted per reason, and reported."""

    reason: str


def check_file(path, expected):
    """It is read twice, so a pipe will not do."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not a regular file, and it is read twice; give {expected}")


def check_folder(path, expected):
    if not os.path.isdir(path):
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not a folder; give {expected}")


def lines(path, file, longest):
    """Decoded lines; one that is not UTF-8 is told by its number. `longest` bounds what one may take of memory."""
    number = 0
    while raw := file.readline(longest + 1):
        number += 1
        if len(raw) > longest:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: line {number} is longer than {longest >> 20} MiB, "
                               "expected a text file; split the text into rows")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise PrepareError("INVALID_ARGUMENT", f"{path}: line {number} is not UTF-8 (byte {error.start + 1} is "
                               f"0x{raw[error.start]:02x}); convert the file, for example with iconv -t "
                               "UTF-8") from None
