"""Coinbase Exchange's stream, which needs no key: https://docs.cdp.coinbase.com/exchange/websocket-feed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from headrace.errors import ConfigError
from headrace.plugins.market.coinbase_history import CoinbaseHistory
from headrace.plugins.market.environment import shown
from headrace.plugins.market.feed import OTHER, Dialogue, Feed, FeedLostError, FeedRefusedError, Heard
from headrace.plugins.market.frames import Frames, grouped, words
from headrace.plugins.market.source import FeedSource, settings
from headrace.plugins.market.symbols import is_pattern, kinds_of, listed, matched, symbols_of
from headrace.uri import NESTED

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_ADDRESS, _HISTORY_ADDRESS = "wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com"
_KINDS = {"match": "trades", "last_match": "trades", "ticker": "quotes"}
_CHANNELS = {"trades": "matches", "quotes": "ticker"}
_PASSING = ("limit", "too many", "slow", "unavailable", "internal", "timeout")
"""Words in a refusal that is not for good."""


class _Head(msgspec.Struct, gc=False):
    type: str | None = None
    product_id: str | None = None
    trade_id: int | None = None
    last_trade_id: int | None = None


@attrs.frozen(kw_only=True)
class Coinbase(Feed):
    """
    Products of Coinbase Exchange: their trades, and on request the best bid and ask (``quotes``, the channel "ticker").

    The number of a product's trades (``trade_id``) grows by one, and each second a heartbeat says the last one: so every trade
    that is missing is known. Its ``sequence`` counts messages of other channels too, and says nothing here.

    Attributes:
        symbols: Products: BTC-USD, or patterns such as ``*-USD``, which its list of products is held against.

        wanted: Of trades and quotes those that are subscribed to.

        address: Where the feed is.

        history_address: Where its past and its products are; unless given Coinbase's own, and none where `address` is another.

        heartbeat_s: Without any message for so long the connection is dead.
    """

    symbols: tuple[str, ...] = ("BTC-USD",)
    wanted: tuple[str, ...] = ("trades",)
    address: str = _ADDRESS
    history_address: str = ""
    heartbeat_s: float | None = 10.0
    name: str = attrs.field(default="coinbase", init=False)
    kinds: tuple[str, ...] = attrs.field(init=False)
    safe_url: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not self.wanted or any(w not in _CHANNELS for w in self.wanted):
            raise ConfigError(f"found kinds={','.join(self.wanted)}, expected some of {', '.join(_CHANNELS)}")
        object.__setattr__(self, "kinds", self.wanted)
        object.__setattr__(self, "safe_url", shown(self.address))

    def url(self) -> str:
        return self.address

    def dialogue(self) -> _Dialogue:
        return _Dialogue(self)

    def numbers(self) -> Mapping[str, str]:
        return {"trades": "trade_id"} if "trades" in self.wanted else {}

    def resolved(self, get: Callable[[str, Mapping[str, str]], bytes]) -> Coinbase:
        if not any(is_pattern(s) for s in self.symbols):
            return self
        server = self._rest
        if not server:
            raise ConfigError(f"{shown(self.address)} has no list of products: name them, or give history_address=")
        body = get(f"{server.rstrip('/')}/products", {})
        return attrs.evolve(self, symbols=matched(self.symbols, listed(body, "id", server), server))

    @property
    def _rest(self) -> str:
        """Where its past and its products are; "": nowhere."""
        return self.history_address or (_HISTORY_ADDRESS if self.address == _ADDRESS else "")

    def history(self) -> CoinbaseHistory | None:
        return CoinbaseHistory(self._rest) if self._rest and "trades" in self.wanted else None


@attrs.define(eq=False)
class _Dialogue(Dialogue):
    feed: Coinbase
    subscribed: bool = False
    frames: Frames[_Head] = attrs.field(factory=lambda: Frames(_Head))

    def begin(self) -> Heard:
        channels = [*(_CHANNELS[w] for w in self.feed.wanted), "heartbeat"]
        said = {"type": "subscribe", "product_ids": self.feed.symbols, "channels": channels}
        return Heard(replies=(msgspec.json.encode(said).decode(),))

    def hear(self, frame: bytes) -> Heard:
        values, heads = self.frames.split(frame)
        latest: dict[str, int] = {}
        control: list[bytes] = []
        kinds: list[str | None] = []
        for value, head in zip(values, heads, strict=True):
            kind = None if head is None else head.type
            if head is None or kind is None:
                kinds.append(OTHER)
            elif kind == "heartbeat":
                kinds.append(None)
                # it was known to stand still at 0
                if head.product_id and head.last_trade_id and "trades" in self.feed.kinds:
                    latest[head.product_id] = head.last_trade_id
            elif kind in ("subscriptions", "error"):
                kinds.append(None)
                control.append(value)
            else:
                known = _KINDS.get(kind, OTHER)
                kinds.append(known if known in self.feed.kinds else OTHER)
        numbers = [h.trade_id if h is not None and k == "trades" else None for h, k in zip(heads, kinds, strict=True)]
        symbols = [None if h is None else h.product_id for h in heads]
        said = [
            self._control(msgspec.json.decode(value)) for value in control
        ]  # an error may stand behind a confirmation
        return Heard(grouped(values, kinds, symbols, numbers), (), any(said), latest)

    def _control(self, said: dict[str, Any]) -> bool:
        """Whether it says that we are subscribed."""
        if said["type"] == "error":
            text = words(said, "message", "reason")
            if self.subscribed or any(word in text.lower() for word in _PASSING):
                raise FeedLostError(f"error: {text}")
            raise FeedRefusedError(f"{self.feed.safe_url}: refused ({text}); check the products")
        given = {c.get("name"): set(c.get("product_ids") or ()) for c in said.get("channels") or ()}
        for wanted in (*self.feed.wanted, "heartbeat"):
            missing = set(self.feed.symbols) - given.get(_CHANNELS.get(wanted, wanted), set())
            if missing:
                raise FeedRefusedError(
                    f"{self.feed.safe_url}: not subscribed to {wanted} of {', '.join(sorted(missing)[:10])}; check the products"
                )
        self.subscribed = True
        return True


@attrs.define(kw_only=True, eq=False)
class CoinbaseSource(FeedSource):
    """`FeedSource` of ``coinbase://BTC-USD,ETH-USD``; no credentials are needed."""

    feed: Coinbase = attrs.field(metadata={NESTED: ()})

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> CoinbaseSource:
        """Make the source of ``coinbase://BTC-USD?kinds=trades,quotes``; ``symbols_file=`` names a file of products."""
        of_source, of_feed = settings(
            uri, cls, Coinbase, more=("kinds", "symbols_file"), unsettable=("symbols", "wanted")
        )
        symbols = symbols_of(uri, f"{uri.host}{uri.path}")
        return cls(feed=Coinbase(symbols=symbols, **kinds_of(uri), **of_feed), **of_source)
