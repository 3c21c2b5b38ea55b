"""Alpaca's past: https://docs.alpaca.markets/reference/stocktradesingle-1."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import attrs
import msgspec

from headrace.plugins.market.environment import variable
from headrace.plugins.market.frames import BROKEN
from headrace.plugins.market.gaps import moment
from headrace.plugins.market.history import History, HistoryLostError, Page, Wanted, spliced

_TYPES = {"trades": "t", "quotes": "q", "bars": "b"}
_MOST = 10_000
_BEFORE_NS = {"trades": 10 * 10**9, "quotes": 10 * 10**9, "bars": 120 * 10**9}
"""A message takes its time to come, and a bar's time is where its minute begins."""

_AFTER_NS = 10 * 10**9
"""Our clock may be slow: what was sent before our end of a gap may have a later time there."""

DELAY_S = 900
"""The delayed feed is so late. What is newer it may not ask for."""


class _Answer(msgspec.Struct):
    symbol: str
    next_page_token: str | None = None
    trades: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET  # null: an empty page
    quotes: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    bars: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


@attrs.frozen
class AlpacaHistory(History):
    """
    Trades, quotes and bars of one symbol and interval. What it knows of corrections stands in the trades, as ``u``.

    Attributes:
        of: Which feed.

        address: Where it is asked for.
    """

    of: str
    address: str
    kinds: tuple[str, ...] = ("trades", "quotes", "bars")

    def headers(self) -> Mapping[str, str]:
        return {
            "APCA-API-KEY-ID": variable("APCA_API_KEY_ID"),
            "APCA-API-SECRET-KEY": variable("APCA_API_SECRET_KEY"),
        }

    def first(self, kind: str, wanted: Wanted) -> str:
        late_ns = DELAY_S * 10**9 if self.of == "delayed_sip" else 0
        query = {
            "start": moment(wanted.from_ns - _BEFORE_NS[kind] - late_ns),
            "end": moment(wanted.to_ns - late_ns if late_ns else wanted.to_ns + _AFTER_NS),
            "feed": "iex" if self.of == "iex" else "sip",
            "limit": _MOST,
            "sort": "asc",
            **({"timeframe": "1Min"} if kind == "bars" else {}),
        }
        return f"{self.address.rstrip('/')}/v2/stocks/{quote(wanted.symbol, safe='')}/{kind}?{urlencode(query)}"

    def page(self, kind: str, wanted: Wanted, address: str, headers: Mapping[str, str], body: bytes) -> Page:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except BROKEN:
            raise HistoryLostError("an answer that is no JSON of theirs") from None
        if answer.symbol != wanted.symbol:
            raise HistoryLostError("an answer about another symbol")
        raws = getattr(answer, kind)
        if raws is msgspec.UNSET:
            raise HistoryLostError(f"an answer without {kind}")
        head = b'{"T":"%s","S":%s,' % (_TYPES[kind].encode(), msgspec.json.encode(wanted.symbol))
        values = [spliced(head, bytes(raw)) for raw in raws or ()]
        token = answer.next_page_token
        following = f"{address.partition('&page_token=')[0]}&{urlencode({'page_token': token})}" if token else ""
        return Page(values, None, following)
