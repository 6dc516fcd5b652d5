#!/usr/bin/env python3
"""Debian's package index as text to classify: which section a package is in, from its one-line description.

    debian_sections.py index SECTIONS.tsv [--from FILE]
    debian_sections.py shares SECTIONS.tsv FOLDER [--clients 4]

index: a row for each pair of source package and description, columns split, client, label, text, sorted. The client
is a maintainer: the start of the SHA-256 of their address. About a tenth of the source packages are the test split,
drawn by a hash of their names, so that no source package is in both. Sections that say nothing of the content are left
out.

shares: deals whole maintainers out to clients of unequal size: FOLDER/client-1.tsv and so on, and FOLDER/labels.txt
with every label of SECTIONS.tsv, sorted. Of N clients the i-th should hold (N + 1 - i) parts of the rows, 40, 30, 20
and 10 % for four. Maintainers go by falling number of rows, then by name, each to the client that has the least of what
it should hold.

The same index gives the same bytes. Nothing but Python's own library is needed.
"""

import argparse
import collections
import contextlib
import errno
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

FIELDS = ("Package", "Section", "Maintainer", "Description")
NO_CONTENT = {"debug", "oldlibs", "metapackages", "tasks"}
TEST_OF_256 = 26  # first bytes of the hash, out of 256, that mean test
MIN_PACKAGES = 10_000
# As common/exit_code.h.
EXIT_CODES = {"INVALID_ARGUMENT": 2, "NOT_FOUND": 3, "FAILED_PRECONDITION": 5, "RESOURCE_EXHAUSTED": 6}


class Refusal(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Row(NamedTuple):
    split: str
    client: str
    label: str
    text: str


def read_packages(lines):
    """Each paragraph of the index as a dictionary; continued lines, none of which are needed, are skipped."""
    package = {}
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            yield package
            package = {}
        elif line[0] not in " \t":
            name, _, value = line.partition(": ")
            package[name] = value
    yield package


def _client(maintainer):
    address = re.search(r"<([^>]*)>", maintainer)
    return hashlib.sha256((address[1] if address else maintainer).lower().encode()).hexdigest()[:12]


def make_rows(packages):
    """The rows, sorted, and how many packages there were."""
    rows, seen, count = [], set(), 0
    for package in packages:
        count += "Package" in package
        if any(field not in package for field in FIELDS) or package["Section"] in NO_CONTENT:
            continue
        source = package.get("Source", package["Package"]).split(" ")[0]  # may have a version behind it
        text = package["Description"].replace("\t", " ")
        if (source, text) in seen:
            continue
        seen.add((source, text))
        split = "test" if hashlib.sha256(source.encode()).digest()[0] < TEST_OF_256 else "train"
        rows.append(Row(split, _client(package["Maintainer"]), package["Section"], text))
    return sorted(rows), count


@contextlib.contextmanager
def _index_lines(path):
    if path is not None:
        with open(path, encoding="utf-8") as file:
            yield file
        return
    try:
        apt = subprocess.Popen(["apt-cache", "dumpavail"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               env={**os.environ, "LC_ALL": "C.UTF-8"}, encoding="utf-8")
    except FileNotFoundError:
        raise Refusal("FAILED_PRECONDITION", "apt-cache is not installed, expected a Debian system; give --from the "
                      "output of `apt-cache dumpavail` on one") from None
    with apt:
        yield apt.stdout
    if apt.returncode != 0:
        raise Refusal("FAILED_PRECONDITION", f"apt-cache dumpavail ended with {apt.returncode}; run apt-get update")


def _write_rows(path, rows):
    _write(path, "".join("\t".join(row) + "\n" for row in [Row._fields, *rows]))


def _write(path, text):
    """By rename, so that a file which is there is whole."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", dir=folder, delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def index(options):
    with _index_lines(options.source) as lines:
        rows, count = make_rows(read_packages(lines))
    if count < options.min_packages:
        raise Refusal("FAILED_PRECONDITION", f"{options.source or 'apt-cache dumpavail'}: found {count} packages, "
                      f"expected at least {options.min_packages}; run apt-get update first")
    _write_rows(options.sections, rows)
    return f"{options.sections}: {len(rows)} rows, {len({row.label for row in rows})} labels, " \
           f"{len({row.client for row in rows})} maintainers"


def read_rows(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file] or [[]]
    if tuple(header) != Row._fields or any(len(row) != len(Row._fields) for row in rows):
        raise Refusal("INVALID_ARGUMENT", f"{path}: not the columns {', '.join(Row._fields)} in every line; make "
                      "the file with `debian_sections.py index`")
    return [Row(*row) for row in rows]


def deal(rows, clients):
    """client of a row -> which of `clients` shares, from 0, it is dealt to."""
    rows_of = collections.Counter(row.client for row in rows)
    held, share_of = [0] * clients, {}
    for name, count in sorted(rows_of.items(), key=lambda item: (-item[1], item[0])):
        share = min(range(clients), key=lambda i: (held[i] / (clients - i), i))
        share_of[name] = share
        held[share] += count
    return share_of


def shares(options):
    rows = read_rows(options.sections)
    share_of = deal(rows, options.clients)
    dealt = [[row for row in rows if share_of[row.client] == share] for share in range(options.clients)]
    lines = []
    for number, own in enumerate(dealt, 1):
        count = collections.Counter(row.split for row in own)
        if not count["train"] or not count["test"]:
            raise Refusal("INVALID_ARGUMENT", f"{options.sections}: client {number} of {options.clients} would get "
                          f"{count['train']} train and {count['test']} test rows, expected some of each; use "
                          "fewer --clients")
        lines.append(f"client-{number}: {len({row.client for row in own})} maintainers, {count['train']} train rows, "
                     f"{count['test']} test rows, {len({row.label for row in own})} labels")
    for number, own in enumerate(dealt, 1):
        _write_rows(os.path.join(options.folder, f"client-{number}.tsv"), own)
    labels = sorted({row.label for row in rows})
    _write(os.path.join(options.folder, "labels.txt"), "".join(label + "\n" for label in labels))
    return "\n".join([*lines, f"{options.folder}: {len(rows)} rows, {len(labels)} labels"])


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 1 or more")
    return value


def _parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True, metavar="MODE")
    mode = modes.add_parser("index", help="the whole index as one file")
    mode.add_argument("sections", metavar="SECTIONS.tsv")
    mode.add_argument("--from", dest="source", metavar="FILE", help="saved output of `apt-cache dumpavail`")
    mode.add_argument("--min-packages", type=int, default=MIN_PACKAGES, help="fewer are refused (default: %(default)s)")
    mode.set_defaults(run=index)
    mode = modes.add_parser("shares", help="one file for each client")
    mode.add_argument("sections", metavar="SECTIONS.tsv")
    mode.add_argument("folder", metavar="FOLDER")
    mode.add_argument("--clients", type=_positive, default=4, help="default: %(default)s")
    mode.set_defaults(run=shares)
    return parser.parse_args(arguments)


def main(arguments):
    options = _parse(arguments)
    try:
        print(options.run(options))
        return 0
    except Refusal as error:
        failure = error
    except FileNotFoundError as error:
        failure = Refusal("NOT_FOUND", f"{error.filename}: no such file; make it first, see --help")
    except OSError as error:
        code = "RESOURCE_EXHAUSTED" if error.errno == errno.ENOSPC else "FAILED_PRECONDITION"
        failure = Refusal(code, f"{error.filename or options.sections}: {error.strerror}")
    except UnicodeDecodeError as error:
        failure = Refusal("INVALID_ARGUMENT", f"the text is not UTF-8 ({error.reason}); convert it")
    print(f"debian_sections: {failure.code}: {failure}", file=sys.stderr)
    return EXIT_CODES[failure.code]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
