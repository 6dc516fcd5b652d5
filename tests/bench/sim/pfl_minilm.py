"""minilm_task.py under pfl-research's simulated backend, wired as in its own benchmark of language models: one process, two threads, updates weighted
by rows, central SGD of rate 1, which is FedAvg. A round ends when the central model has moved."""

import itertools
import time
import types

import minilm_task
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchDataDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class RoundEnds(TrainingProcessCallback):
    def __init__(self):
        self.times = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.times.append(time.perf_counter())
        return False, Metrics()


def loss(self, **batch):
    self.train()
    return self(**batch).loss


@torch.no_grad()
def metrics(self, **batch):  # asked for in the first iteration only, which warms up
    self.eval()
    rows = len(batch["labels"])
    return {"loss": Weighted(self(**batch).loss.item() * rows, rows)}


def make_user(name):
    return PyTorchDataDataset(task.clients[name], user_id=name, collate_fn=minilm_task.collate)


args = minilm_task.parse_args(__doc__)
task, model = minilm_task.load(args.sections, args.base, threads=2)
model.loss, model.metrics = types.MethodType(loss, model), types.MethodType(metrics, model)
cohorts = itertools.chain.from_iterable(task.cohort(r, args.cohort) for r in range(args.rounds + 1))
users = FederatedDataset(make_user, cohorts.__next__)
round_ends = RoundEnds()
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(central_num_iterations=args.rounds + 1, evaluation_frequency=args.rounds + 1, train_cohort_size=args.cohort,
                                       val_cohort_size=None),
    backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
    model=PyTorchModel(model, torch.optim.SGD, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0),
                       amp_dtype=torch.bfloat16 if args.bf16 else torch.float32),
    model_train_params=NNTrainHyperParams(local_batch_size=minilm_task.BATCH, local_num_epochs=1, local_learning_rate=args.learning_rate),
    callbacks=[round_ends])
minilm_task.report("pfl", task, model, args, round_ends.times)
