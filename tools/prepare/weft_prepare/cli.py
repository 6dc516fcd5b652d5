"""The command line of `weft prepare`."""

import argparse
import json
import math
import signal
import sys

from weft_prepare import errors
from weft_prepare.data_folder import check_replaceable
from weft_prepare.errors import PrepareError
from weft_prepare.labels import read_labels

DEFAULT_TEST_FRACTION = 0.1
TASKS = ("sequence_classification", "causal_lm", "sentence_embedding", "image_classification")
KINDS = ("tsv", "csv", "jsonl", "parquet", "dataset", "text-folder", "image-folder", "idx")
IMAGE_KINDS = ("image-folder", "idx")
RULES = ("column", "dirichlet", "iid")

DESCRIPTION = """Turns a client's own data into a data folder, for `data:` of a client.yaml; or deals the rows to many
clients, a folder for each. docs/data.md has the inputs and examples."""
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


def seed(text):
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 to 2^63 - 1")
    return value


def positive(text):
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"found {text}, expected more than 0, at most 1e6")
    return value


def numbers(text):
    values = [float(part) for part in text.split(",")]
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"found {text}, expected numbers with commas between")
    return values


def image_size(text):
    """height, width of "224" or "28x32"."""
    values = [length(part) for part in text.split("x")]
    if len(values) > 2 or max(values) > 4096:
        raise argparse.ArgumentTypeError(f"found {text}, expected N or HEIGHTxWIDTH, at most 4096")
    return values if len(values) == 2 else values * 2


def _add_columns(parser):
    columns = parser.add_argument_group("columns")
    columns.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    columns.add_argument("--label-column", metavar="NAME", help="default: label; of the tasks without labels: none, "
                         "and only --partition dirichlet reads it")
    columns.add_argument("--partner-column", default="partner", metavar="NAME", help="sentence_embedding: the text "
                         "that belongs to the one of --text-column (default: partner)")
    columns.add_argument("--prompt-column", default="prompt", metavar="NAME", help="causal_lm (default: prompt)")
    columns.add_argument("--completion-column", default="completion", metavar="NAME", help="causal_lm: what is learnt "
                         "(default: completion)")
    columns.add_argument("--messages-column", default="messages", metavar="NAME", help="causal_lm: conversations, of "
                         "which what the assistant says is learnt (default: messages)")
    columns.add_argument("--image-column", default="image", metavar="NAME", help="default: image")
    columns.add_argument("--group", action="append", default=[], metavar="NAME", help="column whose value each row "
                         "keeps: a simulation makes clients of them (may be repeated)")
    columns.add_argument("--client-column", metavar="NAME", help="column that names each row's client (default: "
                         "client)")


def _add_rows(parser):
    rows = parser.add_argument_group("rows")
    split = rows.add_mutually_exclusive_group()
    split.add_argument("--split-column", metavar="NAME", help="column that names each row's split, train or test "
                       "(default: split, where there is one)")
    split.add_argument("--test-fraction", type=fraction, metavar="F", help="draw the test rows by a hash of their text "
                       f"instead (default: {DEFAULT_TEST_FRACTION} where there is no split column)")
    rows.add_argument("--splits", type=names, metavar="NAME[,..]", help="only these splits (default: all)")
    rows.add_argument("--client", type=names, action="extend", metavar="NAME[,..]",
                      help="only the rows of these clients")
    rows.add_argument("--clients-file", metavar="FILE", help="the same, one name a line")
    many = parser.add_argument_group("many clients", "each gets a data folder OUT/clients/NAME")
    many.add_argument("--partition", choices=RULES, help="column: a client for each name in the client column; "
                      "dirichlet: clients of equal size, their classes' shares drawn from Dirichlet(alpha); iid: at "
                      "random")
    many.add_argument("--num-clients", type=length, metavar="N", help="under dirichlet and iid")
    many.add_argument("--alpha", type=positive, metavar="A", help="under dirichlet: small is unlike, large alike")
    many.add_argument("--min-rows", type=length, default=1, metavar="N", help="rows of split train that a client must "
                      "have; under column clients with fewer are left out (default: %(default)s)")
    many.add_argument("--seed", type=seed, default=0, help="of the partition and of the draw of test rows "
                      "(default: %(default)s)")


def _parser():
    parser = _Parser(prog="weft prepare", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("data", metavar="DATA", help="file or folder")
    parser.add_argument("--base", help="Hugging Face folder of the base; its tokenizer.json is used, or for images its "
                        "preprocessor_config.json. May be left out for images whose size is given")
    parser.add_argument("--out", required=True, help="data folder to write; one of an earlier run is replaced")
    parser.add_argument("--kind", choices=KINDS, help="of DATA (default: told by its name or by what lies in it)")
    parser.add_argument("--task", choices=TASKS, help="default: image_classification for folders of images and idx "
                        "files, else sequence_classification")
    parser.add_argument("--labels", metavar="FILE", help="the job's labels, one a line in the order of their class "
                        "ids; default: those that the data names in an order, else all found, sorted. They are written "
                        "to OUT/labels.txt")
    parser.add_argument("--max-length", type=length, default=128, help="tokens of a row, special ones included, at "
                        "which longer texts are cut (default: %(default)s)")
    images = parser.add_argument_group("images", "default: as the base's preprocessor_config.json says")
    images.add_argument("--image-size", type=image_size, metavar="N|HxW")
    images.add_argument("--channels", type=int, choices=(1, 3))
    images.add_argument("--image-mean", type=numbers, metavar="M[,..]")
    images.add_argument("--image-std", type=numbers, metavar="S[,..]")
    _add_columns(parser)
    _add_rows(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the summary (default: text)")
    return parser


def _check_partition(options):
    """What --partition needs, and what means nothing without it."""
    given = {"--num-clients": options.num_clients is not None, "--alpha": options.alpha is not None,
             "--min-rows": options.min_rows != 1}
    wanted = {None: set(), "column": set(), "iid": {"--num-clients"}, "dirichlet": {"--num-clients", "--alpha"}}
    allowed = wanted[options.partition] | ({"--min-rows"} if options.partition else set())
    for option, is_given in given.items():
        if is_given and option not in allowed:
            raise PrepareError("INVALID_ARGUMENT", f"{option} means nothing with "
                               f"{'--partition ' + options.partition if options.partition else 'no --partition'}; "
                               "leave it out")
        if not is_given and option in wanted[options.partition]:
            raise PrepareError("INVALID_ARGUMENT", f"--partition {options.partition} without {option}; give it")


def _check_groups(options):
    from weft_prepare.selection import NAME

    if options.group and options.partition:
        raise PrepareError("INVALID_ARGUMENT", "--group with --partition: a group is kept in one folder for all; leave "
                           "one of them out")
    for name in options.group:
        if not NAME.fullmatch(name):
            raise PrepareError("INVALID_ARGUMENT", f"--group: found \"{name[:64]}\", expected a name of letters, digits, "
                               "'_', '-' and '.'; rename the column")
    if len(set(options.group)) < len(options.group):
        raise PrepareError("INVALID_ARGUMENT", "--group: a column is named twice; name it once")


def _wanted_clients(options):
    """The set of names, or None for all rows."""
    if options.client is None and options.clients_file is None:
        if options.client_column is not None and options.partition != "column":
            raise PrepareError("INVALID_ARGUMENT", "--client-column without --client or --clients-file; name "
                               "the clients, or give --partition column")
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


def _task(options, reader):
    """What to make of the rows; of causal_lm by the columns that there are."""
    from weft_prepare import tasks
    from weft_prepare.encoder import Encoder
    from weft_prepare.images import ImageFormat

    name = options.task or ("image_classification" if options.kind in IMAGE_KINDS else "sequence_classification")
    if name == "image_classification":
        image_format = ImageFormat(options.base, options.image_size, options.channels, options.image_mean,
                                   options.image_std)
        return tasks.ImageTask(image_format, options.image_column)
    if options.base is None:
        raise PrepareError("INVALID_ARGUMENT", "the following arguments are required: --base, whose tokenizer makes "
                           "tokens of texts; see `weft prepare --help`")
    encoder = Encoder(options.base, options.max_length)
    if name == "sequence_classification":
        return tasks.TextTask(encoder, options.text_column)
    if name == "sentence_embedding":
        return tasks.PairsTask(encoder, options.text_column, options.partner_column)
    columns = reader.columns
    if options.messages_column in columns:
        return tasks.ChatTask(encoder, options.base, options.messages_column)
    if options.prompt_column in columns or options.completion_column in columns:
        return tasks.PromptTask(encoder, options.prompt_column, options.completion_column)
    return tasks.PlainTask(encoder, options.text_column)


def _selection(options, reader, task, clients):
    from weft_prepare.selection import Options
    from weft_prepare.tasks import Column

    test_fraction, split = options.test_fraction, options.split_column
    if test_fraction is None and split is None:
        if "split" in reader.columns:
            split = "split"
        else:
            test_fraction = DEFAULT_TEST_FRACTION
    label = options.label_column or ("label" if task.labelled or options.partition == "dirichlet" else None)
    need_client = clients is not None or options.partition == "column"
    return Options(label=label and Column(label, "--label-column"), split=split and Column(split, "--split-column"),
                   client=Column(options.client_column or "client", "--client-column") if need_client else None,
                   clients=clients, splits=None if options.splits is None else set(options.splits),
                   test_fraction=test_fraction, seed=options.seed,
                   groups=tuple(Column(name, "--group") for name in options.group))


def run(options):
    """The summary of what was written."""
    from weft_prepare.pipeline import Partition, prepare
    from weft_prepare.readers import kind_of, open_reader

    _check_partition(options)
    _check_groups(options)
    clients = _wanted_clients(options)
    labels = None if options.labels is None else read_labels(options.labels)
    options.kind = options.kind or kind_of(options.data)
    reader = open_reader(options.data, options.kind)
    task = _task(options, reader)
    if labels is not None and not task.labelled:
        raise PrepareError("INVALID_ARGUMENT", f"--labels for task {task.name}, which has none; leave it out")
    check_replaceable(options.out)
    rule = options.partition and Partition(options.partition, options.num_clients, options.alpha, options.min_rows,
                                           options.seed)
    return prepare(reader, task, _selection(options, reader, task, clients), labels, options.out, options.max_length,
                   rule)


def _text(summary):
    head = f"{summary['folder']}: {summary['rows']} rows"
    if summary["tokens"]:
        head += f", {summary['tokens']} tokens"
    if summary["labels"]:
        head += f", {sum(map(bool, summary['labels'].values()))} of {len(summary['labels'])} labels present"
    lines = [head]
    for name, split in summary["splits"].items():
        rows, tokens = split["rows"], split["tokens"]
        lines.append(f"  {name}: {rows} rows" + (f", {tokens} tokens, {tokens / rows:.1f} a row" if tokens else ""))
    if "clients" in summary:
        clients = summary["clients"]
        lines.append(f"  {clients['count']} clients of {clients['min_rows']} to {clients['max_rows']} rows")
    if summary["rows_at_max_length"]:
        lines.append(f"  {summary['rows_at_max_length']} rows have {summary['max_length']} tokens, the most allowed")
    last_only = summary.get("conversations_with_only_the_last_turn_learnt")
    if last_only:
        lines.append(f"  of {last_only} conversations only the last turn is learnt: the chat template writes earlier "
                     "ones otherwise")
    lines += [f"  {rows} rows dropped: {reason}" for reason, rows in summary["dropped"].items()]
    return "\n".join(lines)


def _stop(*_):
    raise KeyboardInterrupt


def main(arguments):
    """Returns the exit code; what went wrong is one line on stderr."""
    previous = signal.signal(signal.SIGTERM, _stop)  # so that half a folder is removed
    try:
        options = _parser().parse_args(arguments)
        summary = run(options)
        print(json.dumps(summary, indent=2, ensure_ascii=False) if options.format == "json" else _text(summary))
        return 0
    except PrepareError as error:
        failure = error
    except ImportError as error:
        failure = PrepareError("FAILED_PRECONDITION", f"{sys.executable}: {error}; install deploy/requirements.txt for "
                               "it or set WEFT_PYTHON to an interpreter that has it")
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
