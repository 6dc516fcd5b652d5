"""From input to data folder: select, deal to clients, encode, write."""

import collections
from typing import NamedTuple

import numpy as np

from weft_prepare.data_folder import DataFolderWriter
from weft_prepare.errors import PrepareError
from weft_prepare.partition import partition
from weft_prepare.progress import progress
from weft_prepare.readers.record import Dropped
from weft_prepare.selection import UNWANTED, Selection, label_of, told

# Rows are encoded so many at a time, fewer when they are long: what bounds the memory taken.
CHUNK_ROWS = 1024
CHUNK_CHARACTERS = 1 << 22

SMALL_CLIENT = "of a client with fewer than --min-rows rows"


class Partition(NamedTuple):
    rule: str
    clients: int | None = None
    alpha: float | None = None
    min_rows: int = 1
    seed: int = 0

    def facts(self):
        return {name: value for name, value in self._asdict().items() if value is not None}


def prepare(reader, task, options, labels, out, max_length, rule=None):
    """Writes the data folder and returns its summary, JSON-ready.

    `options`: selection.Options; `labels`: names in order, or None; `rule`: a Partition, or None for one folder.
    """
    selected = Selection(reader, task, options).read(labels)
    dropped = collections.Counter(selected.dropped)
    clients, client_names = np.where(selected.splits == UNWANTED, UNWANTED, 0), None
    if rule is not None:
        clients, client_names, left_out = partition(rule.rule, selected, reader.path, rule.clients, rule.alpha,
                                                    rule.min_rows, rule.seed)
        if left_out:
            dropped[SMALL_CLIENT] += left_out
    with DataFolderWriter(out, task) as writer:
        longest = _encode(reader, task, options, selected, clients, writer.rows, dropped)
        _check_splits(reader.path, writer.rows, selected, clients, dropped)
        facts = _facts(task, selected, max_length, dropped)
        found = writer.finish(facts, selected.split_names, client_names, rule and rule.facts(), selected.groups)
        rows_of_labels = np.bincount(np.array(writer.rows.labels)[writer.rows.labels >= 0],
                                     minlength=len(selected.label_names))
    return _summary(out, facts, found, client_names, rows_of_labels, longest, task)


def _facts(task, selected, max_length, dropped):
    encoder = task.encoder
    return {"task": task.name, "labels": selected.label_names if task.labelled else [],
            "tokenizer_sha256": encoder.sha256 if encoder is not None else "",
            "max_length": max_length if encoder is not None else 0, "dropped": dict(sorted(dropped.items()))}


def _chunks(task, rows):
    """Lists of (number of the row, content), of the rows wanted."""
    chunk, characters = [], 0
    for number, content in rows:
        chunk.append((number, content))
        characters += task.characters(content)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _wanted(reader, task, options, selected, clients):
    """(number, content) of the wanted rows, which must be those of the first reading."""
    changed = PrepareError("FAILED_PRECONDITION", f"{reader.path}: changed while it was read; run again")
    number = -1
    for number, record in enumerate(progress(reader.records(), "encoding", total=len(clients))):
        if number >= len(clients):
            raise changed
        if clients[number] == UNWANTED:
            continue
        content, code = task.content(record.fields), selected.labels[number]
        label = None if options.label is None else label_of(record.fields, options.label)
        if isinstance(content, Dropped) or label != (None if code == UNWANTED else selected.label_names[code]):
            raise changed
        yield number, content
    if number + 1 != len(clients):
        raise changed


def _encode(reader, task, options, selected, clients, store, dropped):
    """All wanted rows into the store; returns how many have a text of the longest length."""
    splits, longest = len(selected.split_names), 0
    most = task.encoder.max_length if task.encoder is not None else 0
    for chunk in _chunks(task, _wanted(reader, task, options, selected, clients)):
        for (number, _), row in zip(chunk, task.encode([content for _, content in chunk]), strict=True):
            if isinstance(row, Dropped):
                dropped[row.reason] += 1
                continue
            store.add(row, selected.labels[number], clients[number] * splits + selected.splits[number], number)
            if most:
                longest += any(len(text[0] if task.learns else text) == most for text in row)
    return longest


def _check_splits(path, store, selected, clients, dropped):
    """A split that had rows must still have some; daemons refuse an empty shard."""
    written = {int(group) % len(selected.split_names) for group in store.written_groups()}
    for code, name in enumerate(selected.split_names):
        if code not in written and np.any((selected.splits == code) & (clients != UNWANTED)):
            raise PrepareError("INVALID_ARGUMENT", f"{path}: split \"{name}\" is empty: none of its rows could be "
                               f"used{told(dropped)}; correct them, or leave the split out by --splits")


def _summary(out, facts, found, client_names, rows_of_labels, longest, task):
    totals = {}
    for entries in found.values():
        for name, entry in entries.items():
            total = totals.setdefault(name, {"rows": 0, "tokens": 0})
            total["rows"] += entry["rows"]
            total["tokens"] += entry.get("tokens", 0)
    totals = {name: totals[name] for name in sorted(totals)}
    summary = {"folder": str(out), **facts, "splits": totals, "rows": sum(split["rows"] for split in totals.values()),
               "tokens": sum(split["tokens"] for split in totals.values()), "rows_at_max_length": longest,
               "labels": {label: int(rows_of_labels[i]) for i, label in enumerate(facts["labels"])}}
    if client_names is not None:
        sizes = [sum(entry["rows"] for entry in entries.values()) for entries in found.values()]
        summary["clients"] = {"count": len(found), "min_rows": min(sizes), "max_rows": max(sizes)}
    if getattr(task, "last_only", 0):
        summary["conversations_with_only_the_last_turn_learnt"] = task.last_only
    return summary
