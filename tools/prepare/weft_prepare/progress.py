"""Progress bars on stderr; none where that is no terminal."""

import sys


def progress(rows, what, unit="rows", total=None):
    if not sys.stderr.isatty():
        return rows
    from tqdm import tqdm

    return tqdm(rows, desc=f"weft prepare: {what}", unit=f" {unit}", total=total, file=sys.stderr, leave=False)
