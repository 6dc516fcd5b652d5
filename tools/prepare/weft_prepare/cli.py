"""The command line of `weft prepare`."""

import argparse
import collections
import json
import signal
import sys

from weft_prepare import errors
from weft_prepare.data_folder import DataFolderWriter, check_replaceable
from weft_prepare.errors import PrepareError
from weft_prepare.labels import read_labels
from weft_prepare.rows import Selection
from weft_prepare.text import Encoder
from weft_prepare.tsv import TsvFile

# Rows are encoded so many at a time, fewer when they are long: what bounds the memory taken.
CHUNK_ROWS = 1024
CHUNK_CHARACTERS = 1 << 22
DEFAULT_TEST_FRACTION = 0.1

DESCRIPTION = """Turns a tab-separated text file into a data folder, for `data:` of a client.yaml."""
EPILOG = """Exit codes: 0 done; 1 internal error; 2 command line or data wrong; 3 file not found; 5 refused (permission,
or --out holds something else); 6 disk or memory full; 7 stopped."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PrepareError("INVALID_ARGUMENT", f"{message}; see `weft prepare --help`")


def names(text):
    found = [name for name in text.split(",") if name]
    if not found:
        raise argparse.ArgumentTypeError("found no name, expected NAME or NAME,NAME,...")
    return found


def fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 or more and less than 1")
    return value


def length(text):
    value = int(text)
    if not 1 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError(f"found {text}, expected 1 to {1 << 20}")
    return value


def _parser():
    parser = _Parser(prog="weft prepare", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("data", metavar="DATA.tsv", help="UTF-8, tab-separated, with a header line; no quoting")
    parser.add_argument("--base", required=True, help="Hugging Face folder of the base; its tokenizer.json is used")
    parser.add_argument("--out", required=True, help="data folder to write; one of an earlier run is replaced")
    parser.add_argument("--labels", metavar="FILE", help="the job's labels, one a line in the order of their class "
                        "ids; default: all labels of the file, sorted. They are written to OUT/labels.txt")
    parser.add_argument("--max-length", type=length, default=128, help="tokens of a row, special ones included, at "
                        "which longer texts are cut (default: %(default)s)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="default: label")
    parser.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split-column", metavar="NAME", help="column that names each row's split, train or test "
                       "(default: split, where there is one)")
    split.add_argument("--test-fraction", type=fraction, metavar="F", help="draw the test rows by a hash of their text "
                       f"instead (default: {DEFAULT_TEST_FRACTION} where there is no split column)")
    parser.add_argument("--splits", type=names, metavar="NAME[,..]", help="only these splits (default: all)")
    parser.add_argument("--client", type=names, action="extend", metavar="NAME[,..]",
                        help="only the rows of these clients")
    parser.add_argument("--clients-file", metavar="FILE", help="the same, one name a line")
    parser.add_argument("--client-column", metavar="NAME", help="column that names each row's client (default: client)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the summary (default: text)")
    return parser


def _wanted_clients(options):
    """The set of names, or None for all rows."""
    if options.client is None and options.clients_file is None:
        if options.client_column is not None:
            raise PrepareError("INVALID_ARGUMENT", "--client-column without --client or --clients-file; name "
                               "the clients")
        return None
    clients = set(options.client or [])
    if options.clients_file is not None:
        with open(options.clients_file, encoding="utf-8") as file:
            try:
                clients.update(name for name in file.read().splitlines() if name)
            except UnicodeDecodeError:
                raise PrepareError("INVALID_ARGUMENT", f"{options.clients_file}: not UTF-8, expected one client a "
                                   "line; convert it") from None
    if not clients:
        raise PrepareError("INVALID_ARGUMENT", f"{options.clients_file}: names no client; write one a line")
    return clients


def _chunks(rows):
    chunk, characters = [], 0
    for row, split in rows:
        chunk.append((row, split))
        characters += len(row.text)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _write(selection, encoder, labels, path, writer):
    """All rows into the writer; returns the rows of each label and how many texts reached the longest length."""
    ids_of_labels = {label: i for i, label in enumerate(labels)}
    rows_of_labels, longest = collections.Counter(), 0
    for chunk in _chunks(selection.rows()):
        for (row, split), ids in zip(chunk, encoder.encode([row.text for row, _ in chunk])):
            if not ids:
                raise PrepareError("INVALID_ARGUMENT", f"{path}: line {row.line}: the text has no tokens; remove "
                                   "the row")
            if row.label not in ids_of_labels:
                raise PrepareError("FAILED_PRECONDITION", f"{path}: changed while it was read; run again")
            writer.split(split).add(ids, ids_of_labels[row.label])
            rows_of_labels[row.label] += 1
            longest += len(ids) == encoder.max_length
    return rows_of_labels, longest


def prepare(options):
    """Writes the data folder and returns its summary, JSON-ready."""
    clients = _wanted_clients(options)
    labels = None if options.labels is None else read_labels(options.labels)
    client_column = None if clients is None else options.client_column or "client"
    tsv = TsvFile(options.data, options.label_column, options.text_column, options.split_column, client_column)
    test_fraction = options.test_fraction
    if test_fraction is None and tsv.columns.split is None:
        test_fraction = DEFAULT_TEST_FRACTION
    encoder = Encoder(options.base, options.max_length)
    check_replaceable(options.out)
    selection = Selection(tsv, clients, None if options.splits is None else set(options.splits), test_fraction)
    labels = selection.check(labels)
    with DataFolderWriter(options.out) as writer:
        rows_of_labels, longest = _write(selection, encoder, labels, options.data, writer)
        manifest = writer.finish(labels, encoder.sha256, options.max_length)
    splits = {name: {"rows": split["rows"], "tokens": split["tokens"]} for name, split in manifest["splits"].items()}
    return {"folder": options.out, "splits": splits, "rows": sum(split["rows"] for split in splits.values()),
            "tokens": sum(split["tokens"] for split in splits.values()), "max_length": options.max_length,
            "rows_at_max_length": longest, "tokenizer_sha256": encoder.sha256,
            "labels": {label: rows_of_labels[label] for label in labels}}


def _text(summary):
    present = sum(1 for rows in summary["labels"].values() if rows)
    lines = [f"{summary['folder']}: {summary['rows']} rows, {summary['tokens']} tokens, "
             f"{present} of {len(summary['labels'])} labels present"]
    for name, split in summary["splits"].items():
        rows, tokens = split["rows"], split["tokens"]
        lines.append(f"  {name}: {rows} rows, {tokens} tokens, {tokens / rows:.1f} a row")
    if summary["rows_at_max_length"]:
        lines.append(f"  {summary['rows_at_max_length']} rows have {summary['max_length']} tokens, the most allowed")
    return "\n".join(lines)


def _stop(*_):
    raise KeyboardInterrupt


def _run(arguments):
    options = _parser().parse_args(arguments)
    try:
        import tokenizers  # noqa: F401  (before any work, for a clear line)
    except ImportError as error:
        raise PrepareError("FAILED_PRECONDITION", f"{sys.executable}: {error}; install deploy/requirements.txt for it "
                           "or set WEFT_PYTHON to an interpreter that has it") from None
    summary = prepare(options)
    print(json.dumps(summary, indent=2, ensure_ascii=False) if options.format == "json" else _text(summary))


def main(arguments):
    """Returns the exit code; what went wrong is one line on stderr."""
    previous = signal.signal(signal.SIGTERM, _stop)  # so that half a folder is removed
    try:
        _run(arguments)
        return 0
    except PrepareError as error:
        failure = error
    except OSError as error:
        failure = errors.from_os_error(error)
    except MemoryError:
        failure = PrepareError("RESOURCE_EXHAUSTED", "out of memory; free some or split the file")
    except KeyboardInterrupt:
        failure = PrepareError("CANCELLED", "stopped; nothing was written")
    except Exception as error:  # a bug of ours: still one line
        failure = PrepareError("INTERNAL", f"{type(error).__name__}: {error}")
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(errors.error_line(failure), file=sys.stderr)
    return errors.EXIT_CODES[failure.code]
