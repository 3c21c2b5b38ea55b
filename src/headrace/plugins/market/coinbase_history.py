"""Coinbase's past: https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-trades."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import attrs
import msgspec

from headrace.plugins.market.frames import BROKEN
from headrace.plugins.market.history import History, HistoryLostError, Page, Wanted, spliced

_MOST = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_NS = 10 * 10**9
"""A message takes its time to come, and clocks differ."""


class _Head(msgspec.Struct, gc=False):
    trade_id: int
    time: datetime


@attrs.frozen
class CoinbaseHistory(History):
    """
    A product's trades, the newest page first. They lack the orders' ids, and ``sequence``, which is 0 in their rows.

    Attributes:
        address: Where it is asked for.
    """

    address: str
    kinds: tuple[str, ...] = ("trades",)

    def first(self, kind: str, wanted: Wanted) -> str:
        begin = "" if wanted.next is None else f"&after={wanted.next}"
        return f"{self.address.rstrip('/')}/products/{quote(wanted.symbol, safe='')}/trades?limit={_MOST}{begin}"

    def page(self, kind: str, wanted: Wanted, address: str, headers: Mapping[str, str], body: bytes) -> Page:
        try:
            raws = msgspec.json.decode(body, type=list[msgspec.Raw])
            heads = msgspec.json.decode(body, type=list[_Head])
        except BROKEN:
            raise HistoryLostError("an answer that is no list of trades") from None
        head = b'{"type":"match","product_id":%s,' % msgspec.json.encode(wanted.symbol)
        kept = [(h.trade_id, spliced(head, bytes(raw))) for raw, h in zip(raws, heads, strict=True) if _of(wanted, h)]
        kept.sort()
        return Page(
            [value for _, value in kept], [n for n, _ in kept], self._following(wanted, address, headers, heads)
        )

    @staticmethod
    def _following(wanted: Wanted, address: str, headers: Mapping[str, str], heads: list[_Head]) -> str:
        """The next older page; none where this one reaches beyond what is wanted."""
        if not heads:
            return ""
        oldest = min(heads, key=lambda h: h.trade_id)
        if oldest.trade_id <= wanted.last + 1 if wanted.last is not None else _ns(oldest) < _from(wanted):
            return ""
        cursor = headers.get("CB-AFTER") or str(oldest.trade_id)
        return f"{address.partition('&after=')[0]}&after={quote(cursor, safe='')}"


def _of(wanted: Wanted, head: _Head) -> bool:
    if wanted.next is not None and head.trade_id >= wanted.next:
        return False
    if wanted.last is not None:
        return head.trade_id > wanted.last
    return _from(wanted) <= _ns(head) <= wanted.to_ns + _BEFORE_NS


def _from(wanted: Wanted) -> int:
    return wanted.from_ns - _BEFORE_NS


def _ns(head: _Head) -> int:
    since = head.time - _EPOCH if head.time.tzinfo else head.time.replace(tzinfo=UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000
