"""An exported adapter opened by peft: the same predictions as the trainer, and the accuracy that the coordinator reported.

    .venv/bin/python tests/golden/export_parity.py WORK SUMMARY [path of model_logits]

WORK is the folder of a `deploy/demo.sh --work WORK` run, SUMMARY a file with its last line. The four clients' data is read as they hold it.
"""

import json
import pathlib
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, logging

import bert_parity

ROWS = 500
DATA = pathlib.Path(".weft/demo/data")
MAX_LENGTH = 64


def test_rows():
    """(token ids, label) of every test row of every client, cut as the job cuts them."""
    rows = []
    for folder in sorted(DATA.glob("client-*")):
        tensors = load_file(folder / "test.safetensors")
        offsets = tensors["row_offsets"].tolist()
        for a, b, label in zip(offsets, offsets[1:], tensors["labels"].tolist()):
            ids = tensors["input_ids"][a:b].tolist()
            rows.append((ids if len(ids) <= MAX_LENGTH else ids[: MAX_LENGTH - 1] + ids[-1:], label))
    return rows


@torch.no_grad()
def peft_logits(model, ids):
    """[rows, labels], in batches of rows of like length."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    logits = [None] * len(ids)
    for start in range(0, len(order), 64):
        batch = order[start:start + 64]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in batch], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(ids[i]), dtype=torch.long) for i in batch], batch_first=True)
        for i, row in zip(batch, model(input_ids=padded, attention_mask=mask).logits):
            logits[i] = row
    return torch.stack(logits)


def main():
    work, summary = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text().strip().split("\n")[-1])
    helper = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else "bazel-bin/training/model_logits").resolve()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = work / "adapter"
    names = json.loads((DATA / "client-1/manifest.json").read_text())["labels"]
    base = AutoModelForSequenceClassification.from_pretrained(bert_parity.BASE, num_labels=len(names))
    model = PeftModel.from_pretrained(base, folder).eval()

    rows = test_rows()
    predictions = peft_logits(model, [ids for ids, _ in rows]).argmax(-1).tolist()
    accuracy = sum(p == label for p, (_, label) in zip(predictions, rows)) / len(rows)
    print(f"rows={len(rows)} peft_accuracy={accuracy:.4f} reported_accuracy={summary['accuracy']:.4f}")

    sample = [i * len(rows) // ROWS for i in range(ROWS)]
    adapter = {bert_parity.weft_name(name): values for name, values in load_file(folder / "adapter_model.safetensors").items()}
    ids, labels = [rows[i][0] for i in sample], [rows[i][1] for i in sample]

    def same_predictions(values):
        with tempfile.TemporaryDirectory() as scratch:
            found, _ = bert_parity.run_weft(helper, pathlib.Path(scratch), values, ids, labels, num_labels=len(names))
        return sum(p == predictions[i] for p, i in zip(found.argmax(-1).tolist(), sample))

    same = same_predictions(adapter)
    # The comparison can fail: without the LoRA part some predictions must change.
    bare = same_predictions({name: values * 0 if "lora_B" in name else values for name, values in adapter.items()})
    print(f"same_predictions={same}/{ROWS} without_lora={bare}/{ROWS}")
    if same != ROWS:
        sys.exit(f"export_parity: FAILED: {ROWS - same} of {ROWS} predictions differ between peft and the trainer")
    if bare == ROWS:
        sys.exit("export_parity: FAILED: the adapter changes no prediction, so that the comparison shows nothing; train longer")
    if round(accuracy, 4) != summary["accuracy"]:
        sys.exit("export_parity: FAILED: peft finds another accuracy than the coordinator reported")
    print("export_parity: passed")


if __name__ == "__main__":
    main()
