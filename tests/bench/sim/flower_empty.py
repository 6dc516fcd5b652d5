"""Flower's simulation over clients that compute nothing: flower_empty.py CLIENTS KILOBYTES ROUNDS. Each gives back what it got plus one."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read on import

import sys
import time

import flwr as fl
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

clients, kilobytes, rounds = (int(word) for word in sys.argv[1:])
marks = []


class PlusOne(NumPyClient):
    def fit(self, parameters, config):
        return [parameters[0] + 1], 1, {}


class Marked(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        marks.append(time.perf_counter())
        self.last = fl.common.parameters_to_ndarrays(parameters)[0]
        return parameters, metrics


def server(context):
    first = fl.common.ndarrays_to_parameters([np.zeros(kilobytes * 1000 // 4, np.float32)])
    server.strategy = Marked(fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=clients, min_available_clients=clients, initial_parameters=first)
    return ServerAppComponents(strategy=server.strategy, config=ServerConfig(num_rounds=rounds + 1))


run_simulation(ServerApp(server_fn=server), ClientApp(client_fn=lambda context: PlusOne().to_client()), num_supernodes=clients,
               backend_config={"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1}})
if not np.allclose(server.strategy.last, rounds + 1, rtol=1e-4):
    sys.exit(f"flower_empty.py: found {server.strategy.last}, expected {rounds + 1}")
print(f"client_rounds_per_second={clients / np.median(np.diff(marks)):.1f}")
