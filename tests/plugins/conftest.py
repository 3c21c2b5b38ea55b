"""Modules beside the tests are found from everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Make sources of feeds that the test polls; they are closed behind it."""
    from market_following import Clock, Following  # noqa: PLC0415 - it needs an extra

    from headrace.plugins.market.source import FeedSource  # noqa: PLC0415 - the same

    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "secret")
    opened: list[FeedSource] = []

    def make(feed: object, **settings: Any) -> Following:
        clock = settings.pop("clock", Clock())
        given = {"clock": clock, "now_ns": clock.ns, "uniform": clock.most, "run": "p", **settings}
        opened.append(FeedSource(feed=feed, **given))
        return Following(opened[-1], clock)

    yield make
    for source in opened:
        source.close()
