"""Which folder may include which: the arrows of docs/architecture.md, checked over every source file.

Left may include right, nothing else. Tests, test helpers (testing/) and mains may include anything. The second table is the allow-list of
third-party headers beside Abseil and the C++ library, of a folder or of one file.
"""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

ARROWS = {
    "common": [],
    "proto": [],
    "config": ["proto", "common"],
    "adapters": ["proto", "common"],
    "kernels": ["common"],
    "privacy": ["adapters", "common"],
    "aggregators/core": ["adapters", "proto", "kernels", "common"],
    "aggregators/*": ["aggregators/core", "adapters", "proto", "kernels", "common"],
    "aggregators/dp": ["aggregators/core", "privacy", "adapters", "proto", "kernels", "common"],
    "training": ["adapters", "proto", "kernels", "privacy", "common"],
    "server": ["aggregators/core", "privacy", "config", "adapters", "proto", "common"],
    "client": ["training/trainer.h", "training/data/shard.h", "privacy", "config", "adapters", "proto", "common"],
    "simulation": [
        "server/broadcast", "server/evaluation", "server/export", "server/fold.h", "server/job", "server/journal", "server/round", "server/selection", "server/submit_check.h", "client", "training/trainer.h", "training/data", "aggregators/core", "privacy", "config", "adapters", "proto", "common",
    ],
    "cli": ["proto", "config", "adapters", "privacy", "common"],
}

LIBRARIES = {
    "common": ["spdlog", "openssl", "isa-l"],
    "proto": ["google/protobuf"],
    "config": ["google/protobuf", "yaml-cpp"],
    "adapters": ["google/protobuf", "nlohmann", "re2"],
    "kernels": ["hwy"],
    "privacy": ["openssl"],
    "aggregators/core": ["google/protobuf", "eigen3"],
    "aggregators/*": ["google/protobuf"],
    "simulation": ["google/protobuf", "nlohmann", "CLI"],
    "simulation/ranks/gloo_link.cc": ["torch/csrc/distributed", "ATen"],
    "training": ["google/protobuf", "nlohmann", "torch", "ATen", "c10"],
    "server": ["google/protobuf", "grpcpp", "httplib.h", "sqlite3.h", "spdlog", "nlohmann"],
    "client": ["google/protobuf", "grpcpp", "CLI"],
    "cli": ["google/protobuf", "grpcpp", "CLI", "nlohmann"],
}

# Only these files of server/ and client/ may see the transport; the rest must work in a simulation.
GRPC_ONLY_IN = ["server/net/", "client/grpc_", "client/stall_guard", "cli/"]

OWN = {arrow.split("/")[0] for arrow in ARROWS}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def folder_of(path):
    """The row of the tables that a path of the repository belongs to."""
    parts = path.split("/")
    if parts[0] != "aggregators":
        return parts[0]
    own = "/".join(parts[:2])
    return own if own in ARROWS else "aggregators/*"


def is_free(path):
    """Tests and mains link anything."""
    name = path.split("/")[-1]
    return "_test." in name or name.endswith("main.cc") or "/testing/" in path or "test_" in name or "conformance" in name or name.endswith("_bench.cc")


def within(path, allowed):
    return any(path == a or path.startswith(a + "/") for a in allowed)


def faults_of(path, text):
    """What a source file includes that it may not, a line each."""
    if path.split("/")[0] not in OWN or is_free(path):
        return []
    row = folder_of(path)
    own = "/".join(path.split("/")[:2]) if row == "aggregators/*" else row
    faults = []
    for number, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, target = match.group(1) == '"', match.group(2)
        where = f"{path}:{number}: includes {target}"
        if target.split("/")[0] in OWN and "/" in target and quoted:
            if not within(target, [own, *ARROWS[row]]):
                faults.append(f"{where}, but {own} may include only {', '.join([own, *ARROWS[row]])}")
        elif target.startswith("absl/") or (not quoted and "/" not in target and target != "httplib.h" and target != "sqlite3.h"):
            continue
        elif target.startswith(("sys/", "netinet/", "arpa/", "linux/")):
            continue
        elif not quoted or "/" in target:
            libraries = LIBRARIES.get(path, LIBRARIES.get(row, []))
            if not within(target, libraries):
                faults.append(f"{where}, which is not among the libraries of {row}: {', '.join(libraries) or 'none'}")
            elif target.startswith("grpcpp") and not path.startswith(tuple(GRPC_ONLY_IN)):
                faults.append(f"{where}, but gRPC is seen only by {', '.join(GRPC_ONLY_IN)}")
    return faults


def sources():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    return [path for path in listed.split() if path.endswith((".h", ".cc", ".cu", ".inc")) and (ROOT / path).exists()]


class ArrowsTest(unittest.TestCase):
    def test_every_source_file(self):
        paths = sources()
        self.assertGreater(len(paths), 50)
        faults = [fault for path in paths for fault in faults_of(path, (ROOT / path).read_text())]
        self.assertEqual(faults, [], "\n".join(faults))

    def test_a_wrong_arrow_is_found(self):
        for path, line in [
            ("server/x.cc", '#include "training/trainer.h"'),
            ("server/x.cc", '#include "aggregators/fedavg/fedavg.h"'),
            ("aggregators/fedavg/x.cc", '#include "aggregators/ffa_lora/x.h"'),
            ("client/x.cc", '#include "training/base_model.h"'),
            ("adapters/x.cc", "#include <torch/torch.h>"),
            ("common/x.cc", '#include "proto/job.pb.h"'),
            ("server/round/x.cc", "#include <grpcpp/grpcpp.h>"),
            ("aggregators/core/x.cc", "#include <grpcpp/grpcpp.h>"),
            ("cli/x.cc", "#include <sqlite3.h>"),
            ("simulation/ranks/x.cc", "#include <ATen/ATen.h>"),
        ]:
            self.assertEqual(len(faults_of(path, line)), 1, line)

    def test_right_arrows_pass(self):
        for path, line in [
            ("server/x.cc", '#include "aggregators/core/registry.h"'),
            ("server/x_test.cc", '#include "aggregators/fedavg/fedavg.h"'),
            ("client/x.cc", '#include "training/trainer.h"'),
            ("training/x.cc", "#include <ATen/ATen.h>"),
            ("common/x.cc", "#include <vector>"),
            ("server/net/x.cc", "#include <grpcpp/grpcpp.h>"),
        ]:
            self.assertEqual(faults_of(path, line), [], line)


class CoordinatorBinaryTest(unittest.TestCase):
    def test_no_libtorch_cuda_or_python_in_the_coordinator(self):
        binary = ROOT / "bazel-bin/server/weft-coordinator"
        listed = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
        libraries = re.sub(r"\(0x[0-9a-f]+\)", "", listed)  # addresses, which may spell anything
        self.assertIn("libgrpc++", libraries)
        for name in ("torch", "c10", "cuda", "python"):
            self.assertNotIn(name, libraries)


if __name__ == "__main__":
    unittest.main()
