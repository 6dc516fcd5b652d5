"""minilm_task.py under Flower's simulation: one SuperNode for each client, two actors of one torch thread each, in which model and data stay from
round to round. A round ends when its updates are aggregated."""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read on import

import time

import minilm_task
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict, set_peft_model_state_dict

client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message, context):
    config = message.content["config"]
    task, model = minilm_task.load(config["sections"], config["base"], threads=1)
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    rows = task.clients[config["client"]]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=config["learning_rate"])
    for batch in torch.utils.data.DataLoader(rows, batch_size=minilm_task.BATCH, collate_fn=minilm_task.collate):
        with torch.autocast("cpu", torch.bfloat16, enabled=config["bf16"]):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    reply = RecordDict({"arrays": ArrayRecord(get_peft_model_state_dict(model)), "metrics": MetricRecord({"num-examples": len(rows)})})
    return Message(reply, reply_to=message)


class FixedCohorts(FedAvg):
    """Client i lives on the i-th SuperNode. Flower counts rounds from 1."""

    def __init__(self):
        super().__init__(fraction_evaluate=0.0)
        self.round_ends = []

    def configure_train(self, server_round, arrays, config, grid):
        nodes = dict(zip(task.clients, sorted(grid.get_node_ids())))
        return [Message(RecordDict({"arrays": arrays, "config": ConfigRecord({**config, "client": name})}), dst_node_id=nodes[name],
                        message_type=MessageType.TRAIN) for name in task.cohort(server_round - 1, args.cohort)]

    def aggregate_train(self, server_round, replies):
        result = super().aggregate_train(server_round, replies)
        self.round_ends.append(time.perf_counter())
        return result


@server_app.main()
def serve(grid, context):
    while len(list(grid.get_node_ids())) < len(task.clients):
        time.sleep(0.1)
    config = ConfigRecord({"sections": os.path.abspath(args.sections), "base": os.path.abspath(args.base), "learning_rate": args.learning_rate,
                           "bf16": args.bf16})
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(get_peft_model_state_dict(model)), num_rounds=args.rounds + 1, train_config=config)
    set_peft_model_state_dict(model, result.arrays.to_torch_state_dict())
    minilm_task.report("flower", task, model, args, strategy.round_ends)  # while the actors live


args = minilm_task.parse_args(__doc__)
task, model = minilm_task.load(args.sections, args.base, threads=2)
strategy = FixedCohorts()
run_simulation(server_app, client_app, num_supernodes=len(task.clients),
               backend_config={"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1}})
