"""Whole processes on loopback for the tests here: a coordinator, client daemons with a trainer that needs no torch, and `weft`.

Nothing sleeps for a fixed time: tests wait for what processes write (files, `weft watch`, their logs) or for their end. WAIT_SECONDS only bounds
a test that has gone wrong.
"""

import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

WAIT_SECONDS = 60
LABELS = ["red", "green", "blue"]

RUNFILES = pathlib.Path(os.environ["TEST_SRCDIR"]) / os.environ["TEST_WORKSPACE"]
COORDINATOR = RUNFILES / "server/weft-coordinator"
CLIENT = RUNFILES / "client/weft-client-fake"
WEFT = RUNFILES / "cli/weft"


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, struct letter, values), each of one dimension."""
    header, data = {}, b""
    for name, (dtype, letter, values) in tensors.items():
        part = struct.pack(f"<{len(values)}{letter}", *values)
        header[name] = {"dtype": dtype, "shape": [len(values)], "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_base(folder, seed=1.0):
    """A BERT of one tiny layer; another seed is another base."""
    folder.mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 8, "hidden_size": 4,
              "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "gelu",
              "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 16,
              "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(folder / "model.safetensors", {"seed": ("F32", "f", [seed])})


def write_data(folder, rows=8, labels=LABELS, classes=None):
    """A data folder as `weft prepare` writes it, with `rows` rows in each split."""
    folder.mkdir()
    classes = classes if classes is not None else [i % len(labels) for i in range(rows)]
    splits = {}
    for name in ("train", "test"):
        write_safetensors(folder / f"{name}.safetensors",
                          {"input_ids": ("I32", "i", [1 + i % 7 for i in range(3 * rows)]),
                           "row_offsets": ("I64", "q", [3 * i for i in range(rows + 1)]),
                           "labels": ("I32", "i", classes)})
        splits[name] = {"file": f"{name}.safetensors", "rows": rows, "tokens": 3 * rows, "sha256": ""}
    manifest = {"format": "weft-data", "version": 1, "task": "sequence_classification", "labels": labels,
                "tokenizer_sha256": "", "max_length": 16, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def wait_until(what, condition, process=None):
    """Polls for an event in the file system or a process; fails when `process` ends before."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"waiting for {what}: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {WAIT_SECONDS} s for {what}")
        time.sleep(0.005)


class Cluster(unittest.TestCase):
    """Starts processes for one test and ends them after it; their logs are printed when it failed."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="weft-"))
        self.processes = []
        self.port = None
        self.hold_folder = self.root / "hold"
        self.hold_folder.mkdir()
        self.base = self.root / "base"
        write_base(self.base)
        (self.root / "labels.txt").write_text("".join(label + "\n" for label in LABELS))

    def tearDown(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        outcome = self._outcome.result if hasattr(self, "_outcome") else None
        if outcome is not None and (outcome.errors or outcome.failures):
            for log in sorted(self.root.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()}")

    def start(self, name, command, environment=None):
        log = open(self.root / f"{name}.log", "a")
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(environment or {})})
        log.close()
        self.processes.append(process)
        return process

    def log(self, name):
        return (self.root / f"{name}.log").read_text()

    def start_coordinator(self, state="state", overrides=()):
        """On any free port the first time, on the same one after a restart."""
        config = self.root / f"{state}.yaml"
        config.write_text(f"listen: 127.0.0.1:{self.port or 0}\npage: 'off'\nstate_dir: {self.root / state}\n"
                          f"ports_file: {self.root / 'ports'}\nprogress_interval: 50ms\nrejoin_grace: 20s\n")
        ports = self.root / "ports"
        ports.unlink(missing_ok=True)
        sets = [word for override in overrides for word in ("--set", override)]
        coordinator = self.start("coordinator", [COORDINATOR, "--config", config, *sets])
        wait_until("the coordinator to listen", ports.exists, coordinator)
        self.port = int(ports.read_text().split()[0].removeprefix("grpc="))
        return coordinator

    def client_config(self, name, base=None, data=None):
        if data is None:
            data = self.root / f"data-{name}"
            if not data.exists():
                write_data(data, rows=4 + 4 * (ord(name[0]) - ord("a")))
        config = self.root / f"{name}.yaml"
        config.write_text(f"coordinator: 127.0.0.1:{self.port}\nclient_id: {name}\nbase: {base or self.base}\n"
                          f"data: {data}\nreconnect_min: 20ms\nreconnect_max: 200ms\n")
        return config

    def start_client(self, name, fault="", log=None, **config):
        return self.start(log or name, [CLIENT, "--config", self.client_config(name, **config)],
                          {"WEFT_FAKE_HOLD": str(self.hold_folder), "WEFT_FAKE_FAULT": fault})

    def start_clients(self, names):
        return [self.start_client(name) for name in names]

    def hold(self, name, round_number):
        (self.hold_folder / name).write_text(f"{round_number}\n")

    def wait_until_held(self, name):
        wait_until(f"client {name} to train", (self.hold_folder / f"{name}.held").exists)

    def release(self, name):
        (self.hold_folder / name).unlink()

    def weft(self, *words, code=0):
        """Runs `weft`; an exit code other than `code` fails the test. An error must be one line."""
        command = [str(WEFT), *[str(word) for word in words], "--coordinator", f"127.0.0.1:{self.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
        self.assertEqual(done.returncode, code, f"{command}: {done.stdout}{done.stderr}")
        if code not in (0, 7, 9):
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done

    def weft_json(self, *words):
        return json.loads(self.weft(*words, "--format", "json").stdout)

    def job_file(self, clients=3, rounds=3, extra=""):
        path = self.root / "job.yaml"
        path.write_text(f"name: test\nbase: {{path: {self.base}}}\ntask: {{labels_file: {self.root / 'labels.txt'}}}\n"
                        "adapter:\n  form: lora\n  config: {rank: 2, target_modules: [query, value]}\n"
                        f"selection: {{rule: all, min_ready: {clients}}}\nround: {{min_updates: {clients}}}\n"
                        f"training: {{steps: 3, max_length: 16}}\nstop: {{rounds: {rounds}}}\n{extra}")
        return path

    def submit(self, *overrides, **job):
        sets = [word for override in overrides for word in ("--set", override)]
        return self.weft("submit", self.job_file(**job), *sets).stdout.strip()

    def watch(self, job, until=lambda status: False, code=0):
        """Follows a job until `until` holds or it ends; the last status. Goes on over restarts of the coordinator, as `weft watch` does."""
        command = [str(WEFT), "watch", job, "--format", "json", "--coordinator", f"127.0.0.1:{self.port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            self.processes.append(process)
            status = None
            for line in process.stdout:
                status = json.loads(line)
                if until(status):
                    process.kill()
                    return status
            self.assertEqual(process.wait(WAIT_SECONDS), code, status)
            return status

    def export(self, job, which="last"):
        """The bytes of the exported adapter's tensors."""
        folder = self.root / f"export-{job}-{which}"
        self.weft("export", job, "--which", which, "--out", folder)
        return (folder / "adapter_model.safetensors").read_bytes()

    def client_status(self, name):
        for client in self.weft_json("status")["clients"]:
            if client["client_id"] == name:
                return client
        return None

    def stop(self, process):
        """SIGTERM; the exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(WAIT_SECONDS)

    def fails(self, command, code, *texts, environment=None):
        """Runs a command that must end with `code` and say all of `texts` on the last line of stderr."""
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=WAIT_SECONDS,
                              env={**os.environ, **(environment or {})})
        self.assertEqual(done.returncode, code, done.stderr)
        last = done.stderr.strip().split("\n")[-1]
        for text in texts:
            self.assertIn(text, last)


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
