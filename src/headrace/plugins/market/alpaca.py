"""Alpaca's stream of US stocks: https://docs.alpaca.markets/docs/real-time-stock-pricing-data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import attrs
import msgspec

from headrace.errors import ConfigError
from headrace.plugins.market.alpaca_history import DELAY_S, AlpacaHistory
from headrace.plugins.market.environment import named, shown, variable
from headrace.plugins.market.feed import OTHER, Dialogue, Feed, FeedLostError, FeedRefusedError, Heard
from headrace.plugins.market.frames import Frames, grouped, words
from headrace.plugins.market.source import FeedSource, settings
from headrace.plugins.market.symbols import is_pattern, kinds_of, listed, matched, symbols_of
from headrace.uri import NESTED

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_KINDS = {"t": "trades", "c": "corrections", "x": "corrections", "q": "quotes", "b": "bars", "u": "bars"}
_CHANNELS = {"trades": ("trades",), "quotes": ("quotes",), "bars": ("bars", "updatedBars")}
_CONTROL = ("success", "subscription", "error")
_ADDRESS, _HISTORY_ADDRESS = "wss://stream.data.alpaca.markets/v2", "https://data.alpaca.markets"
_ASSETS_ADDRESS = "https://paper-api.alpaca.markets"
_HELD_S = 90.0
"""A connection that broke off is held by the server for so long, and only one is allowed."""

_CREDENTIALS = (401, 402)
_FOR_GOOD = {400: "check the symbols", 405: "follow fewer symbols", 409: "this subscription does not have that", 410: "this"
" feed does not have that channel"}  # fmt: skip
_FAKE = "FAKEPACA"


class _Head(msgspec.Struct, gc=False):
    T: str | None = None
    S: str | None = None


@attrs.frozen(kw_only=True)
class Alpaca(Feed):
    """
    Stocks by Alpaca: trades, quotes and bars of one minute, each with its corrections.

    Attributes:
        symbols: Stocks, or patterns such as ``A*``, which its list of assets is held against; ``*`` for all.

        feed: "iex", one exchange; "sip", the consolidated tape; "delayed_sip", the same later; "test", which always sends
            FAKEPACA.

        wanted: Of trades, quotes and bars those that are subscribed to.

        address: Where the feeds are.

        history_address: Where their past is; unless given Alpaca's own, and none where `address` is another.

        assets_address: Where that list is: of a paper account unless given, and of none where `address` is another.

        silence_s: While New York is open, no message at all for so long is taken for a fault; of "delayed_sip" a quarter of an
            hour later.
    """

    symbols: tuple[str, ...] = ("AAPL",)
    feed: Literal["iex", "sip", "delayed_sip", "test"] = attrs.field(
        default="iex", validator=attrs.validators.in_(("iex", "sip", "delayed_sip", "test"))
    )
    wanted: tuple[str, ...] = ("trades", "quotes", "bars")
    address: str = _ADDRESS
    history_address: str = ""
    assets_address: str = ""
    silence_s: float = 120.0
    name: str = attrs.field(init=False)
    kinds: tuple[str, ...] = attrs.field(init=False)
    safe_url: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        unknown = [w for w in self.wanted if w not in _CHANNELS]
        if unknown or not self.wanted:
            raise ConfigError(f"found kinds={','.join(self.wanted)}, expected some of {', '.join(_CHANNELS)}")
        kinds = ("trades", "corrections") if "trades" in self.wanted else ()
        object.__setattr__(self, "kinds", (*kinds, *(w for w in self.wanted if w != "trades")))
        object.__setattr__(self, "name", f"alpaca.{self.feed}")
        object.__setattr__(self, "safe_url", f"{shown(self.address).rstrip('/')}/{self.feed}")

    def url(self) -> str:
        return f"{self.address.rstrip('/')}/{self.feed}"

    def dialogue(self) -> _Dialogue:
        return _Dialogue(self, variable("APCA_API_KEY_ID"), variable("APCA_API_SECRET_KEY"))

    def history(self) -> AlpacaHistory | None:
        address = self.history_address or (_HISTORY_ADDRESS if self.address == _ADDRESS else "")
        return AlpacaHistory(self.feed, address) if address and self.feed != "test" else None

    def resolved(self, get: Callable[[str, Mapping[str, str]], bytes]) -> Alpaca:
        if not any(is_pattern(s) and s != "*" for s in self.symbols):
            return self
        server = self.assets_address or (_ASSETS_ADDRESS if self.address == _ADDRESS else "")
        if not server:
            raise ConfigError(f"{shown(self.address)} has no list of assets: name symbols, or give assets_address=")
        headers = {
            "APCA-API-KEY-ID": variable("APCA_API_KEY_ID"),
            "APCA-API-SECRET-KEY": variable("APCA_API_SECRET_KEY"),
        }
        body = get(f"{server.rstrip('/')}/v2/assets?status=active&asset_class=us_equity", headers)
        return attrs.evolve(self, symbols=matched(self.symbols, listed(body, "symbol", server), server))

    def credentials(self) -> Sequence[tuple[str, bool]]:
        return list(named(["${APCA_API_KEY_ID}", "${APCA_API_SECRET_KEY}"]))

    def quiet_s(self, moment: datetime) -> float | None:
        if self.feed == "test":
            return self.silence_s
        from headrace.plugins.market.sessions import opened  # noqa: PLC0415 - the calendar takes a while to import

        if self.feed == "delayed_sip":
            moment -= timedelta(seconds=DELAY_S)  # what comes now was said then
        began = opened(moment)
        if began is None or (moment.astimezone(UTC) - began).total_seconds() < self.silence_s:
            return None
        return self.silence_s


@attrs.define(eq=False)
class _Dialogue(Dialogue):
    feed: Alpaca
    key: str = attrs.field(repr=False)
    secret: str = attrs.field(repr=False)
    frames: Frames[_Head] = attrs.field(factory=lambda: Frames(_Head))

    def begin(self) -> Heard:
        return Heard()  # the server speaks first

    def hear(self, frame: bytes) -> Heard:
        values, heads = self.frames.split(frame)
        kinds: list[str | None] = [self._kind(head) for head in heads]
        said = Heard()
        if OTHER in kinds:
            for i, head in enumerate(heads):
                if head is not None and head.T in _CONTROL:  # arrays of one, says the documentation
                    kinds[i], said = None, self._control(values[i])
        messages = grouped(values, kinds, [None if head is None else head.S for head in heads])
        return attrs.evolve(said, messages=messages) if messages else said

    def _kind(self, head: _Head | None) -> str:
        kind = OTHER if head is None or head.T is None else _KINDS.get(head.T, OTHER)
        return kind if kind in self.feed.kinds else OTHER

    def _control(self, value: bytes) -> Heard:
        said: dict[str, Any] = msgspec.json.decode(value)
        if said["T"] == "error":
            self._error(said)
        if said["T"] == "subscription":
            return self._subscribed(said)
        if said.get("msg") == "connected":
            return Heard(replies=(_json(action="auth", key=self.key, secret=self.secret),))
        if said.get("msg") == "authenticated":
            channels = {c: self.feed.symbols for w in self.feed.wanted for c in _CHANNELS[w]}
            return Heard(replies=(_json(action="subscribe", **channels),))
        return Heard()

    def _subscribed(self, said: dict[str, Any]) -> Heard:
        """The answer always has the whole list: what is not there does not come."""
        for channel in (c for w in self.feed.wanted for c in _CHANNELS[w]):
            missing = set(self.feed.symbols) - set(said.get(channel) or ())
            if missing:
                raise FeedRefusedError(
                    f"{self.feed.safe_url}: not subscribed to {channel} of {', '.join(sorted(missing)[:10])}; check the"
                    " symbols, and what the account may have"
                )
        return Heard(subscribed=True)

    def _error(self, said: dict[str, Any]) -> None:
        code, text = said.get("code"), words(said, "msg")
        if code in _CREDENTIALS:
            raise FeedRefusedError(
                f"{self.feed.safe_url}: refused our credentials ({code}: {text}); check APCA_API_KEY_ID and APCA_API_SECRET_KEY"
            )
        if code in _FOR_GOOD:
            raise FeedRefusedError(f"{self.feed.safe_url}: refused ({code}: {text}): {_FOR_GOOD[code]}")
        raise FeedLostError(f"error {code}: {text}", _HELD_S if code == 406 else 0.0)


def _json(**said: object) -> str:
    return msgspec.json.encode(said).decode()


@attrs.define(kw_only=True, eq=False)
class AlpacaSource(FeedSource):
    """`FeedSource` of ``alpaca://iex/AAPL,MSFT``; credentials are APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment."""

    feed: Alpaca = attrs.field(metadata={NESTED: ("feed",)})

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> AlpacaSource:
        """
        Make the source of ``alpaca://iex/AAPL,MSFT?kinds=trades,quotes``.

        Without symbols it is AAPL, of the feed "test" FAKEPACA; ``symbols_file=`` names a file of them. ``A*`` is a pattern.
        """
        of_source, of_feed = settings(
            uri, cls, Alpaca, more=("kinds", "symbols_file"), unsettable=("symbols", "feed", "wanted")
        )
        path = uri.path.strip("/")
        if not path and not uri.settings.get("symbols_file"):
            path = _FAKE if uri.host == "test" else "AAPL"
        given: dict[str, Any] = {"symbols": symbols_of(uri, path), "feed": uri.host or "iex", **kinds_of(uri)}
        return cls(feed=Alpaca(**given, **of_feed), **of_source)
