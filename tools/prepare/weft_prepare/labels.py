"""The label set: its order is the order of class ids."""

import os

from weft_prepare.errors import PrepareError


def check_labels(source, labels):
    """The rules of `weft submit` for a job's labels."""
    seen = set()
    for number, label in enumerate(labels, 1):
        if not label:
            raise PrepareError("INVALID_ARGUMENT", f"{source}: label {number} is empty; name it or remove the line")
        if label in seen:
            raise PrepareError("INVALID_ARGUMENT", f"{source}: label \"{label}\" is there twice; remove one")
        seen.add(label)
    if len(labels) < 2:
        found = f"only the label \"{labels[0]}\"" if labels else "no label"
        raise PrepareError("INVALID_ARGUMENT", f"{source}: found {found}, expected at least 2 labels")
    return labels


def read_labels(path):
    if not os.path.isfile(path):
        raise PrepareError("NOT_FOUND", f"{path}: no such file; give --labels a file with one label a line")
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PrepareError("INVALID_ARGUMENT", f"{path}: not UTF-8, expected one label a line; convert it") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return check_labels(path, [line.removesuffix("\r") for line in lines])


def labels_text(labels):
    return "".join(label + "\n" for label in labels)
