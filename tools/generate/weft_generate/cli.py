"""The command line of `weft generate`: a tokenizer around the binary weft-generate, which reads and writes token numbers."""

import argparse
import subprocess
import sys

from weft_prepare import errors
from weft_prepare.errors import PrepareError

DESCRIPTION = """Text from a language model, with an adapter or without: each next token is the likeliest one, written as it
comes."""
EPILOG = """Exit codes: 0 done; 1 internal error; 2 command line, base or adapter wrong; 3 file not found; 5 refused;
6 memory full; 7 stopped."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PrepareError("INVALID_ARGUMENT", f"{message}; see `weft generate --help`")


def _count(text):
    value = int(text)
    if not 1 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError(f"found {text}, expected 1 to {1 << 20}")
    return value


def _parser():
    parser = _Parser(prog="weft generate", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--base", required=True, metavar="DIR", help="Hugging Face folder of the base, with tokenizer.json")
    parser.add_argument("--adapter", metavar="DIR", help="PEFT folder, as `weft export` writes it (default: none)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="what to go on from")
    source.add_argument("--prompt-file", metavar="FILE", help="the same from a file, as it is; -: from stdin")
    source.add_argument("--chat", action="store_true", help="answer --message, by the base's chat template")
    parser.add_argument("--message", action="append", metavar="TEXT", help="with --chat: what the user says; given again: "
                        "what the assistant answered, what the user said then, and so on in turns")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: what the system says first")
    parser.add_argument("--max-new-tokens", type=_count, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--compute", choices=("f32", "bf16"), default="f32", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all cores")
    parser.add_argument("--binary", required=True, help=argparse.SUPPRESS)  # `weft` gives it
    return parser


def _messages(options):
    if not options.message or len(options.message) % 2 == 0:
        raise PrepareError("INVALID_ARGUMENT", f"--chat: found {len(options.message or [])} of --message, expected an odd "
                           "number: the user's and the assistant's in turns, the user's last")
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    return system + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(options.message)]


def _read(path):
    if path == "-":
        return sys.stdin.read()
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it") from None


def _prompt(options, text):
    if options.chat:
        return text.conversation(_messages(options))
    if options.message or options.system is not None:
        raise PrepareError("INVALID_ARGUMENT", "--message and --system are of --chat; add it, or give --prompt alone")
    return text.prompt(options.prompt if options.prompt is not None else _read(options.prompt_file))


def _tokens(stream):
    """Numbers with spaces between, each as soon as it is whole."""
    rest = b""
    while chunk := stream.read1(4096):
        *whole, rest = (rest + chunk).replace(b"\n", b" ").split(b" ")
        yield from (int(word) for word in whole if word)


def _command(options, stops):
    command = [options.binary, "--base", options.base, "--max-new-tokens", str(options.max_new_tokens),
               "--compute", options.compute, "--device", options.device, "--threads", str(options.threads)]
    if options.adapter is not None:
        command += ["--adapter", options.adapter]
    return command + [word for token in stops for word in ("--stop", str(token))]


def _generate(options):
    """The binary's exit code; what it has to say against the request it says on stderr."""
    from weft_generate.text import Text

    text = Text(options.base)
    ids = _prompt(options, text)
    decode = text.decoder([] if options.chat else ids)
    with subprocess.Popen(_command(options, text.stops()), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdin.write(" ".join(map(str, ids)).encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and said why
        try:
            for token in _tokens(process.stdout):
                print(decode(token), end="", flush=True)
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        print()
    return process.returncode


def main(arguments):
    """Returns the exit code; what went wrong is one line on stderr."""
    try:
        return _generate(_parser().parse_args(arguments))
    except PrepareError as error:
        failure = error
    except ImportError as error:
        failure = PrepareError("FAILED_PRECONDITION", f"{sys.executable}: {error}; install deploy/requirements.txt for "
                               "it or set WEFT_PYTHON to an interpreter that has it")
    except OSError as error:
        failure = errors.from_os_error(error)
    except KeyboardInterrupt:
        failure = PrepareError("CANCELLED", "stopped")
    print(errors.error_line(failure, "weft generate"), file=sys.stderr)
    return errors.EXIT_CODES[failure.code]
