"""Which client gets which row. Every row goes to one client; the same seed gives the same partition."""

import numpy as np

from weft_prepare.errors import PrepareError
from weft_prepare.selection import NAME, TRAIN, UNWANTED

RULES = ("column", "dirichlet", "iid")


def partition(rule, selected, path, clients=None, alpha=None, min_rows=1, seed=0):
    """(code of each row's client, their names, rows dropped with clients too small).

    `min_rows`: of the split train, or of all where there is none. Under "column" clients with fewer are left out, under
    the other rules it is refused.
    """
    counted = _counted(selected)
    if rule == "column":
        return _by_column(selected, path, counted, min_rows)
    rows = int(np.count_nonzero(counted))
    if rows < clients * min_rows:
        raise PrepareError("INVALID_ARGUMENT", f"{path}: {rows} rows to train on for {clients} clients, expected at "
                           f"least {min_rows} for each; lower --num-clients or --min-rows")
    rng = np.random.default_rng(seed)
    codes = np.full(len(selected.splits), UNWANTED, np.int32)
    shares = rng.dirichlet([alpha] * len(selected.label_names), clients) if rule == "dirichlet" else None
    for split in range(len(selected.split_names)):
        of_split = np.flatnonzero(selected.splits == split)
        if rule == "dirichlet":
            _deal(codes, of_split, selected.labels[of_split], shares, rng)
        else:
            for client, part in enumerate(np.array_split(rng.permutation(of_split), clients)):
                codes[part] = client
    digits = len(str(clients))
    return codes, [f"client-{i:0{digits}}" for i in range(1, clients + 1)], 0


def _counted(selected):
    """Which rows min_rows is about."""
    if TRAIN in selected.split_names:
        return selected.splits == selected.split_names.index(TRAIN)
    return selected.splits != UNWANTED


def _by_column(selected, path, counted, min_rows):
    wanted = selected.splits != UNWANTED
    rows = np.bincount(selected.clients[counted], minlength=len(selected.client_names))
    present = np.bincount(selected.clients[wanted], minlength=len(selected.client_names))
    kept = [i for i in range(len(rows)) if rows[i] >= min_rows and present[i]]
    if not kept:
        raise PrepareError("INVALID_ARGUMENT", f"{path}: the largest of {len(rows)} clients has {rows.max()} rows to "
                           f"train on, expected at least {min_rows}; lower --min-rows")
    kept.sort(key=selected.client_names.__getitem__)
    for i in kept:
        if not NAME.fullmatch(selected.client_names[i]):
            raise PrepareError("INVALID_ARGUMENT", f"{path}: found client \"{selected.client_names[i][:64]}\", "
                               "expected a name of letters, digits, '_', '-' and '.', since it becomes that of a "
                               "folder; rename it")
    places = np.full(len(rows) + 1, UNWANTED, np.int32)
    places[kept] = np.arange(len(kept))
    codes = np.where(wanted, places[selected.clients], UNWANTED)
    left_out = int(np.count_nonzero(wanted & (codes == UNWANTED)))
    return codes, [selected.client_names[i] for i in kept], left_out


def _deal(codes, rows, labels, shares, rng):
    """Deals rows in equal numbers to clients whose classes have the given shares (Hsu et al., arXiv 1909.06335).

    A class that has run out is left out of a client's shares from there on.
    """
    clients, classes = shares.shape
    piles = [rng.permutation(rows[labels == label]) for label in range(classes)]
    left = np.array([len(pile) for pile in piles])
    for client in range(clients):
        wanted = len(rows) // clients + (client < len(rows) % clients)
        while wanted:
            weights = np.where(left > 0, shares[client], 0)
            if weights.sum() <= 0:
                weights = left.astype(float)
            taken = np.minimum(rng.multinomial(wanted, weights / weights.sum()), left)
            for label in np.flatnonzero(taken):
                pile, end = piles[label], left[label]
                codes[pile[end - taken[label]:end]] = client
            left -= taken
            wanted -= int(taken.sum())
