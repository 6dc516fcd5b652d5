"""Flower's three ways to average updates, in GB/s of fp32 values: run by tests/bench/fold.py in the environment of tests/bench/peers.sh.

    flower_fold.py CLIENTS ELEMENTS

  aggregate           lists of arrays, all in memory (flwr.server)
  aggregate_inplace   serialised arrays, decoded one client after the other (flwr.server)
  arrayrecords        the messages of the current API, decoded (flwr.serverapp)
Each mean is compared with one in float64. The best of five runs of each counts, as of ours.
"""

import sys
import time

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import aggregate, aggregate_inplace
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

REPEATS = 5


def main():
    clients, elements = int(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(7)
    updates = [rng.uniform(-1, 1, elements).astype(np.float32) for _ in range(clients)]
    weights = [100 + 37 * k for k in range(clients)]  # as in fold_bench
    expected = sum(w * u.astype(np.float64) for w, u in zip(weights, updates)) / sum(weights)

    def fit_result(update, weight):
        return None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([update]), weight, {})

    def record(update, weight):
        return RecordDict({"arrays": ArrayRecord([update]), "metrics": MetricRecord({"num-examples": weight})})

    paths = {
        "aggregate": ([([u], w) for u, w in zip(updates, weights)], lambda x: aggregate(x)[0]),
        "aggregate_inplace": ([fit_result(u, w) for u, w in zip(updates, weights)], lambda x: aggregate_inplace(x)[0]),
        "arrayrecords": ([record(u, w) for u, w in zip(updates, weights)],
                         lambda x: aggregate_arrayrecords(x, "num-examples").to_numpy_ndarrays()[0]),
    }
    for name, (argument, fold) in paths.items():
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            mean = fold(argument)
            seconds.append(time.perf_counter() - start)
        if mean.shape != expected.shape or np.abs(mean - expected).max() > 1e-5:
            raise SystemExit(f"flower_fold: {name} gives another mean")
        print(f"{name}_GBps={clients * elements * 4 / min(seconds) / 1e9:.3f}")


if __name__ == "__main__":
    main()
