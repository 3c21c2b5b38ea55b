"""What an audit is asked: which stores, and how closely."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from headrace.loader import Loader
from headrace.source import Source
from headrace.store import Store


@attrs.define(kw_only=True, eq=False)
class Asked:
    """
    The settings of a `headrace.Audit`.

    Attributes:
        store: Under the lake.

        stream: Whose.

        epoch: Of the stream; "" for the first one.

        source: The log that it was made from; None: it is not compared with one.

        loader: Of the target; None: there is none.

        source_name: The source's, for people.

        loader_name: The target's.

        typed: With `deep`, rows are compared cell by cell by the loader's contract. False: the contract is not known.

        deep: Read every object, line by line; compare with the log record by record, as far as it still has them, and with the
            warehouse row by row.

        since: Only from this offset on, or from this time on, ISO-8601 with a zone.

        until: Only up to there.

        caught_up: What is on its way makes the stream incomplete.

        workers: How many objects are read at once; 1: no thread but the caller's takes part.

        retry_for_s: How long what does not answer is tried.

        observe: Called with each object or range that was looked at.

        clock: Monotonic seconds.
    """

    store: Store
    stream: str
    epoch: str = ""
    source: Source | None = None
    loader: Loader | None = None
    source_name: str = ""
    loader_name: str = ""
    typed: bool = True
    deep: bool = False
    since: int | str | None = None
    until: int | str | None = None
    caught_up: bool = False
    workers: int = 8
    retry_for_s: float = 30.0
    observe: Callable[[object], object] = lambda _: None
    clock: Callable[[], float] = time.monotonic
