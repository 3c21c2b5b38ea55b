"""
Of records with the same business key the newest: one total order, the same in every statement and every warehouse (S8).

The order columns of the contract decide, the first one first, then the place in the log: stream, partition, offset. Two datasets
of one stream repeat places, so the dataset is the last word. Nothing in it depends on what is loaded when, nor in which company.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.contract import Contract
from headrace.typed.columns import quoted

PLACE = ("_stream", "_partition", "_offset", "_dataset")
"""What decides where the order columns do not."""

Quote = Callable[[str], str]


def newest(contract: Contract, quote: Quote = quoted) -> str:
    """The end of a SELECT that keeps the newest row of each key, of rows that have the contract's columns and their place."""
    keys = ", ".join(map(quote, contract.key))
    order = ", ".join(f"{quote(name)} DESC" for name in (*contract.order, *PLACE))
    return f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"


def same(contract: Contract, one: str, other: str, quote: Quote = quoted) -> str:
    """Whether two rows, by the names of their tables, have the same key."""
    return " AND ".join(f"{one}.{quote(name)} = {other}.{quote(name)}" for name in contract.key)


def newer(contract: Contract, new: str, old: str, quote: Quote = quoted) -> str:
    """Whether the first of two rows with the same key is the newer one; neither has a NULL where it matters."""
    *names, last = (quote(name) for name in (*contract.order, *PLACE))
    found = f"{new}.{last} > {old}.{last}"
    for name in reversed(names):
        found = f"({new}.{name} > {old}.{name} OR ({new}.{name} = {old}.{name} AND {found}))"
    return f"({found})"
