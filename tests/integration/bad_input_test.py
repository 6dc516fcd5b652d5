"""Mistakes on command lines, in files and folders: each binary ends with the right code and says why on one line."""

import json
import unittest

from cluster import CLIENT, COORDINATOR, WEFT, Cluster, free_port, write_data


class BadInputTest(Cluster):
    def client_fails(self, code, *texts, words=(), **config):
        self.port = self.port or 1
        self.fails([CLIENT, "--config", self.client_config("a", **config), *words], code, *texts)

    def coordinator_fails(self, code, *texts, config="", words=()):
        path = self.root / "coordinator.yaml"
        path.write_text(f"state_dir: {self.root / 'state'}\nlisten: 127.0.0.1:0\npage: 'off'\n{config}")
        self.fails([COORDINATOR, "--config", path, *words], code, *texts)

    def test_unknown_key(self):
        self.client_fails(2, "thread", words=["--set", "thread=2"])
        self.coordinator_fails(2, "coordinator.yaml:4", "lisen", config="lisen: x\n")
        self.port = 1
        self.weft("submit", self.job_file(extra="ronds: 3\n"), code=2)

    def test_value_out_of_range(self):
        self.client_fails(2, "threads", words=["--set", "threads=-1"])
        self.coordinator_fails(2, "chunk_bytes", words=["--set", "chunk_bytes=1"])
        self.port = 1
        done = self.weft("submit", self.job_file(), "--set", "training.batch_size=0", code=2)
        self.assertIn("training.batch_size", done.stderr)

    def test_missing_config_file(self):
        for binary in (CLIENT, COORDINATOR):
            self.fails([binary, "--config", "/nowhere.yaml"], 3, "/nowhere.yaml")

    def test_command_line(self):
        for binary in (CLIENT, COORDINATOR):
            self.fails([binary], 2, "--config")
            self.fails([binary, "--nosuch"], 2)
        self.fails([WEFT, "nosuch"], 2)

    def test_missing_base(self):
        self.client_fails(3, "/nowhere", base="/nowhere")

    def test_missing_data_folder(self):
        self.client_fails(3, "/nowhere", "weft prepare", data="/nowhere")

    def test_missing_data_file(self):
        write_data(self.root / "data")
        (self.root / "data/train.safetensors").unlink()
        self.client_fails(3, "train.safetensors", data=self.root / "data")

    def test_damaged_data_file(self):
        write_data(self.root / "data")
        file = self.root / "data/train.safetensors"
        file.write_bytes(file.read_bytes()[:-4])
        self.client_fails(8, "train.safetensors", data=self.root / "data")

    def test_empty_shard(self):
        write_data(self.root / "data", rows=0)
        self.client_fails(2, "empty shard", data=self.root / "data")

    def test_label_outside_the_set(self):
        write_data(self.root / "data", rows=2, classes=[0, 3])
        self.client_fails(2, "row 1", "label 3", data=self.root / "data")

    def test_device_cuda_without_cuda(self):
        self.client_fails(5, "cuda", words=["--device", "cuda"])

    def test_unknown_device(self):
        self.client_fails(2, "device", words=["--device", "tpu"])

    def test_beyond_loopback_without_insecure(self):
        self.client_fails(2, "--insecure", words=["--set", "coordinator=192.0.2.1:7400"])
        self.coordinator_fails(5, "--insecure", words=["--set", "listen=0.0.0.0:0"])
        self.fails([WEFT, "list", "--coordinator", "192.0.2.1:7400"], 2, "--insecure")

    def test_port_in_use(self):
        self.start_coordinator()
        self.coordinator_fails(4, f"port {self.port} is in use", 
                               words=["--set", f"listen=127.0.0.1:{self.port}", "--set", f"state_dir={self.root / 'other'}"])

    def test_state_folder_in_use(self):
        self.start_coordinator()
        self.coordinator_fails(5, "state")

    def test_damaged_journal(self):
        coordinator = self.start_coordinator()
        self.assertEqual(self.stop(coordinator), 0)
        for file in (self.root / "state").glob("*"):
            if file.is_file() and file.read_bytes().startswith(b"SQLite"):
                file.write_bytes(b"not a journal" * 100)
        self.coordinator_fails(8)

    def test_no_coordinator(self):
        self.port = free_port()
        for words in (["list"], ["status"], ["watch"], ["stop", "x"], ["submit", self.job_file()],
                      ["export", "x", "--out", self.root / "out"]):
            self.weft(*words, code=4)

    def test_unknown_job(self):
        self.start_coordinator()
        for words in (["status", "x"], ["watch", "x"], ["watch"], ["stop", "x"], ["export", "x", "--out", self.root / "out"]):
            self.weft(*words, code=3)

    def test_job_that_cannot_run(self):
        self.start_coordinator()
        done = self.weft("submit", self.job_file(), "--set", "aggregator.name=nosuch", code=2)
        self.assertIn("nosuch", done.stderr)
        done = self.weft("submit", self.job_file(), "--set", "adapter.config.target_modules=[nosuch]", code=2)
        self.assertIn("nosuch", done.stderr)
        self.assertEqual(self.weft_json("list"), {"jobs": []})

    def test_adapter_larger_than_the_limit(self):
        self.start_coordinator(overrides=["max_adapter_bytes=1024"])
        done = self.weft("submit", self.job_file(), "--set", "adapter.config.rank=1000", code=2)
        self.assertIn("max_adapter_bytes", done.stderr)

    def test_base_without_weights(self):
        (self.base / "model.safetensors").unlink()
        self.port = 1
        self.weft("submit", self.job_file(), code=3)

    def test_broken_base_config(self):
        (self.base / "config.json").write_text(json.dumps({"model_type": "nosuch"}))
        self.start_coordinator()
        done = self.weft("submit", self.job_file(), code=2)
        self.assertIn("nosuch", done.stderr)


if __name__ == "__main__":
    unittest.main()
