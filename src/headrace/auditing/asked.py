"""What an audit is asked: which stores, and how closely."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from headrace.loader import Loader
from headrace.source import Source
from headrace.store import Store


@attrs.define(kw_only=True, eq=False)
class Asked:
    """The settings of a `headrace.Audit`, which says what they mean."""

    store: Store
    stream: str
    epoch: str = ""
    source: Source | None = None
    loader: Loader | None = None
    source_name: str = ""
    loader_name: str = ""
    typed: bool = True
    earlier: Sequence[type] = ()
    gaps: str = ""
    deep: bool = False
    since: int | str | None = None
    until: int | str | None = None
    caught_up: bool = False
    workers: int = 8
    retry_for_s: float = 30.0
    observe: Callable[[object], object] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    now_ns: Callable[[], int] = time.time_ns
