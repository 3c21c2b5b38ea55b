"""Any WebSocket that sends JSON, described by a few fields: in Python, or in a file of TOML."""

from __future__ import annotations

import logging
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import msgspec

from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.plugins.market.environment import filled, named, shown
from headrace.plugins.market.feed import OTHER, Dialogue, Feed, FeedLostError, FeedRefusedError, Heard
from headrace.plugins.market.frames import BROKEN, elements, grouped, split
from headrace.plugins.market.source import FeedSource, settings
from headrace.plugins.market.symbols import symbols_of
from headrace.sequence import sequence_number

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_log = logging.getLogger("headrace.market")

_MESSAGES = "messages"

_TEXT: tuple[Any, str] = (str, "a text")
_TEXTS: tuple[Any, str] = (list[str], 'a list of texts, such as ["A", "B"]')
_TABLE: tuple[Any, str] = (dict[str, str], 'a table of texts, such as {a = "b"}')
_SECONDS: tuple[Any, str] = (Annotated[float, msgspec.Meta(gt=0)], "seconds, more than 0")
_SHAPES = {
    **dict.fromkeys(("symbols", "send", "control", "refused", "lost"), _TEXTS),
    **dict.fromkeys(("streams", "replies", "http"), _TABLE),
    **dict.fromkeys(("heartbeat_s", "silence_s"), _SECONDS),
}
"""What a field is in a file; where it is not here, a text. A text where a list belongs would be taken letter by letter."""


@attrs.frozen(kw_only=True)
class JsonFeed(Feed):
    """
    A WebSocket whose frames are JSON objects, or arrays of them.

    ``${NAME}`` in an address, a header or a text that is sent stands for an environment variable: credentials come from there
    only.

    Attributes:
        name: What the streams' names begin with.

        address: ``wss://…``

        symbols: What is subscribed to, each to the letter as messages name it: gaps are told by it.

        send: What is sent first. ``{symbols}`` stands for the JSON array of them; a text with ``{symbol}`` is sent once for
            each.

        symbol: The field that says what a message is about.

        kind: The field that says what a message is; "" where all are alike.

        streams: By the kind of a message the stream that it belongs to; others are kept in ``NAME.other``.

        control: Kinds that are not kept: heartbeats, confirmations.

        subscribed: The kind that confirms the subscription; "" where nothing does. One that names a symbol, to the letter, ends
            the gap of that one; one that names none is of the first text in `send` with symbols that has none yet, or of all
            where no text has a place for them.

        shown_by: What shows that an exchange which confirms nothing has read our words. "message": the first message that is
            kept, of a symbol or of one whose words were sent behind its own; until then the gap lasts, on a quiet feed too.
            "ping": the answer to a ping that is sent behind them; only where the exchange reads in order, and not where its
            WebSocket library answers pings before the exchange has read.

        refused: Kinds that refuse us for good: what they say ends the run.

        lost: Kinds after which another connection is needed.

        sequence: The field with the feed's own count by symbol, which grows by one from message to message, of whichever of
            the `streams`; "" where it has none, or one for each kind. Of one that begins anew with each connection no number
            says what was lost with the one before.

        items: The field that holds the message, or an array of them, where a frame is an envelope. What is not found in the
            message is looked for in the envelope. Where neither is of one of the `streams` the frame is kept as a whole; an
            empty array holds no message, and a frame without the field is one itself. In an envelope that confirms, or of a kind
            in `control` or `replies`, messages are those that name a kind themselves.

        replies: By kind what is answered.

        http: Headers of the handshake.

        heartbeat_s: Without any frame for so long the connection is dead.

        silence_s: Without any message for so long, while the market is open, another connection is made.

        market: "always" open, or the stock exchange in New York, by its calendar.
    """

    name: str
    address: str
    symbols: tuple[str, ...] = ()
    send: tuple[str, ...] = ()
    symbol: str = ""
    kind: str = ""
    streams: Mapping[str, str] = attrs.field(factory=dict)
    control: tuple[str, ...] = ()
    subscribed: str = ""
    shown_by: Literal["message", "ping"] = attrs.field(
        default="message", validator=attrs.validators.in_(("message", "ping"))
    )
    refused: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    sequence: str = ""
    items: str = ""
    replies: Mapping[str, str] = attrs.field(factory=dict)
    http: Mapping[str, str] = attrs.field(factory=dict)
    heartbeat_s: float | None = None
    silence_s: float | None = None
    market: Literal["always", "new-york"] = attrs.field(
        default="always", validator=attrs.validators.in_(("always", "new-york"))
    )
    kinds: tuple[str, ...] = attrs.field(init=False)
    safe_url: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not self.address.startswith(("ws://", "wss://")):
            raise ConfigError(f"feed {self.name!r}: found address {shown(self.address)!r}, expected ws://… or wss://…")
        if not self.symbols:
            raise ConfigError(f"feed {self.name!r}: found no symbols, expected one or more, or '*'")
        kinds = tuple(dict.fromkeys(self.streams.values())) if self.kind else (_MESSAGES,)
        reserved = {"gaps", OTHER} & set(kinds)
        if reserved:
            raise ConfigError(
                f"feed {self.name!r}: the stream {', '.join(reserved)!r} is the source's own; take another name"
            )
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "safe_url", shown(self.address))

    @classmethod
    def read(cls, path: str | Path, symbols: Sequence[str] = ()) -> JsonFeed:
        """Read a feed's description from a file of TOML. ConfigError where it is none."""
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise ConfigError(f"{path}: cannot be read ({exc}); expected TOML that describes a feed") from exc
        known = {f.name for f in attrs.fields(cls) if f.init}
        wrong = sorted(set(found) - known)
        if wrong:
            raise ConfigError(f"{path}: found {', '.join(wrong)}, expected some of {', '.join(sorted(known))}")
        for name, value in found.items():
            shape, expected = _SHAPES.get(name, _TEXT)
            try:
                msgspec.convert(value, shape)
            except msgspec.ValidationError:
                raise ConfigError(f"{path}: found {name} of type {type(value).__name__}, expected {expected}") from None
        needed = [f.name for f in attrs.fields(cls) if f.init and f.default is attrs.NOTHING]
        if missing := [name for name in needed if name not in found]:
            raise ConfigError(
                f"{path}: found no {' and no '.join(missing)}, expected {' and '.join(needed)} at the least"
            )
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}
        if symbols:
            given["symbols"] = tuple(symbols)
        return cls(**given)

    def url(self) -> str:
        return filled(self.address)

    def headers(self) -> Mapping[str, str]:
        return {name: filled(value) for name, value in self.http.items()}

    def dialogue(self) -> Dialogue:
        return _Dialogue(self, tuple(filled(words) for words in self._words()), _head(self))

    def numbers(self) -> Mapping[str, str]:
        return {self.kinds[0]: self.sequence} if self.sequence and len(self.kinds) == 1 else {}

    def credentials(self) -> Sequence[tuple[str, bool]]:
        return list(named([self.address, *self.http.values(), *self.send, *self.replies.values()]))

    def quiet_s(self, moment: datetime) -> float | None:
        if self.silence_s is None or self.market == "always":
            return self.silence_s
        from headrace.plugins.market.sessions import opened  # noqa: PLC0415 - the calendar takes a while to import

        began = opened(moment)
        quiet = began is None or (moment.astimezone(UTC) - began).total_seconds() < self.silence_s
        return None if quiet else self.silence_s

    @property
    def one_by_one(self) -> bool:
        """Whether each symbol is asked for by itself."""
        return "*" not in self.symbols and any("{symbol}" in words for words in self.send)

    def asked(self) -> list[list[str]]:
        """Say which symbols each text asks for, in the order of those that do; all at once where none has a place for them."""
        asked: list[list[str]] = []
        for words in self.send:
            if "{symbol}" in words:
                asked += [[symbol] for symbol in self.symbols]
            elif "{symbols}" in words:
                asked.append(list(self.symbols))
        return asked or [list(self.symbols)]

    def _words(self) -> list[str]:
        every = msgspec.json.encode(self.symbols).decode()
        said: list[str] = []
        for words in self.send:
            of = self.symbols if "{symbol}" in words else ("",)
            said += [words.replace("{symbols}", every).replace("{symbol}", symbol) for symbol in of]
        return said


def _head(feed: JsonFeed) -> type[Any]:
    """A struct of the fields that are looked at; each under its own name in ours."""
    names = {"kind": feed.kind, "symbol": feed.symbol, "sequence": feed.sequence, "items": feed.items}
    fields: list[tuple[str, Any, Any]] = []
    for ours, theirs in names.items():
        kind: Any = msgspec.Raw | msgspec.UnsetType if ours == "items" else Any  # one of an odd type hides no other
        if theirs:
            fields.append((ours, kind, msgspec.UNSET if ours == "items" else None))
    rename = {ours: theirs for ours, theirs in names.items() if theirs}
    if len(set(rename.values())) < len(rename):
        raise ConfigError(
            f"feed {feed.name!r}: found one field under two names, expected kind, symbol, sequence and items apart"
        )
    return msgspec.defstruct("Head", fields, rename=rename, gc=False)


class _Found(msgspec.Struct, gc=False):
    """
    A message: its bytes, what it says it is (None: only its envelope says it), the stream that it belongs to (None: it is not
    kept), of what, its number.
    """

    value: bytes
    kind: str | None
    stream: str | None
    symbol: str | None
    number: int | None


@attrs.define(eq=False)
class _Dialogue(Dialogue):
    feed: JsonFeed
    said: Sequence[str] = attrs.field(repr=False)
    head: type[Any] = attrs.field(repr=False)
    unread: list[list[str]] = attrs.field(factory=list)
    """Of what we said and the exchange has perhaps not read, in its order: which symbols each text asks for."""

    _texts: Counter[str] = attrs.field(factory=Counter, init=False)  # how many of them ask for each symbol
    _one_by_one: bool = attrs.field(init=False)
    _symbols: frozenset[str] = attrs.field(init=False)
    _folded: dict[str, str] = attrs.field(
        init=False
    )  # the same by their letters without case, but those that were warned of
    _spoken: frozenset[str] = attrs.field(init=False)  # kinds that are answered, obeyed or left out
    _decoder: msgspec.json.Decoder[Any] = attrs.field(init=False)
    _warned: bool = attrs.field(default=False, init=False)  # of a confirmation that names none of ours

    def __attrs_post_init__(self) -> None:
        self._spoken = frozenset((*self.feed.control, *self.feed.replies, *self.feed.refused, *self.feed.lost))
        self._decoder = msgspec.json.Decoder(self.head)
        self._one_by_one = self.feed.one_by_one
        self._symbols = frozenset(self.feed.symbols)
        self._folded = {} if "*" in self._symbols else {s.casefold(): s for s in self.feed.symbols}

    def begin(self) -> Heard:
        if self.feed.subscribed:
            self._expect(self.feed.asked())
            return Heard(replies=self.said)
        if self.feed.shown_by == "ping":
            return Heard(replies=self.said, asked=True, ping=True)
        symbols = self.feed.symbols
        self._expect([[symbol] for symbol in symbols] if self._one_by_one else [list(symbols)])
        return Heard(replies=self.said, asked=True)

    def _expect(self, asked: list[list[str]]) -> None:
        self.unread = asked
        self._texts = Counter(symbol for symbols in asked for symbol in symbols)

    def hear(self, frame: bytes) -> Heard:
        found = self._messages(frame)
        replies: list[str] = []
        for message in found:
            if message.kind is not None and message.kind in self._spoken:
                self._check(message.kind, message.value)
                if message.kind in self.feed.replies:
                    replies.append(filled(self.feed.replies[message.kind]))
        kinds, symbols = [m.stream for m in found], [m.symbol for m in found]
        numbers = [None if m.stream == OTHER else m.number for m in found] if self.feed.sequence else None
        if self._folded:
            self._tell_spelling(kinds, symbols)
        held = self._held(found) if self.unread else []
        began = bool(held and not self.unread)
        return Heard(grouped([m.value for m in found], kinds, symbols, numbers), replies, began, held=held)

    def _tell_spelling(self, kinds: Sequence[str | None], symbols: Sequence[str | None]) -> None:
        """Warn once a connection of a symbol that messages write otherwise: to take it for the same could hide a loss."""
        for kind, symbol in zip(kinds, symbols, strict=True):
            if symbol is None or symbol in self._symbols or kind is None or kind == OTHER:
                continue
            if ours := self._folded.pop(symbol.casefold(), ""):
                log_event(
                    _log,
                    logging.WARNING,
                    "symbol is spelt otherwise",
                    feed=self.feed.name,
                    symbol=ours,
                    found=symbol,
                    advice="its gaps are told of a symbol that no record has, and may never end: name in symbols what messages"
                    " name, and spell out in send what the exchange wants to hear",
                )

    def _held(self, found: Sequence[_Found]) -> list[str]:
        """Take out of what is unread what is confirmed, or shown to be read; return the symbols that no text is unread of."""
        read: list[str] = []
        for message in found:
            if not self.feed.subscribed:
                read += self._shown(message)
            elif message.kind == self.feed.subscribed:
                read += self._confirmed(message.symbol)
        self._texts.subtract(read)
        held = [symbol for symbol in dict.fromkeys(read) if not self._texts[symbol]]
        for symbol in held:
            del self._texts[symbol]
        return held

    def _shown(self, message: _Found) -> list[str]:
        """A message that is kept: the text that asked for its symbol was read, and so were those before it."""
        if message.stream is None or message.stream == OTHER:
            return []
        if not self._one_by_one:
            return self._read(len(self.unread))
        if message.symbol not in self._texts:
            return []
        return self._read(next((n for n, asked in enumerate(self.unread, 1) if message.symbol in asked), 0))

    def _confirmed(self, symbol: str | None) -> list[str]:
        """A confirmation is of the symbol that it names, in one text; where it names none, of the first that has none yet."""
        if symbol is None or "*" in self._symbols:
            return self._read(1)
        for number, asked in enumerate(self.unread):
            if symbol in asked:
                asked.remove(symbol)
                if not asked:
                    del self.unread[number]
                return [symbol]
        if symbol not in self._symbols and not self._warned:
            self._tell_confirmation(symbol)
        return []

    def _tell_confirmation(self, symbol: str) -> None:
        """Warn once a connection of a confirmation of what is none of ours: the words that it is of may never be confirmed."""
        self._warned = True
        unread = list(dict.fromkeys(symbol for asked in self.unread for symbol in asked))
        log_event(
            _log,
            logging.WARNING,
            "confirmation names another symbol",
            feed=self.feed.name,
            found=symbol,
            count=len(unread),
            symbols=", ".join(unread[:10]) + (", …" if len(unread) > 10 else ""),
            advice="it ends no gap, and these are not confirmed yet: name in symbols what confirmations and messages name, and"
            " spell out in send what the exchange wants to hear; where the two differ, or one confirmation names several, leave"
            " subscribed out",
        )

    def _read(self, count: int) -> list[str]:
        read = [symbol for asked in self.unread[:count] for symbol in asked]
        del self.unread[:count]
        return read

    def _kind(self, kind: str) -> str | None:
        """The stream that a message belongs to; None where it is not kept."""
        if not self.feed.kind:
            return _MESSAGES
        if kind in self.feed.control or kind in self.feed.replies or (kind and kind == self.feed.subscribed):
            return self.feed.streams.get(kind)
        return self.feed.streams.get(kind, OTHER)

    def _check(self, kind: str, value: bytes) -> None:
        words = value[:200].decode(errors="replace")
        if kind in self.feed.refused:
            raise FeedRefusedError(f"{self.feed.safe_url}: refused ({words})")
        if kind in self.feed.lost:
            raise FeedLostError(f"told so: {kind}")

    def _messages(self, frame: bytes) -> list[_Found]:
        found: list[_Found] = []
        for value in split(frame):
            envelope = self._decoded(value)
            whole = self._message(value, None, envelope)
            inner = getattr(envelope, "items", msgspec.UNSET)
            found += [whole] if inner is msgspec.UNSET else self._items(whole, envelope, bytes(inner))
        return found

    def _items(self, whole: _Found, envelope: Any, inner: bytes) -> list[_Found]:
        """
        The messages in an envelope; the frame itself, to the byte, where nobody understands them. One that is itself answered,
        obeyed or left out is so once, however much it holds: messages in it are those that say themselves what they are.
        """
        of_stream = not self.feed.kind or whole.kind in self.feed.streams
        array = () if inner == b"null" else elements(inner)
        found = [self._message(item, envelope, self._decoded(item)) for item in array]
        if whole.kind and whole.kind == self.feed.subscribed:
            return self._confirmation(whole, found)
        spoken = whole.kind in self._spoken
        if spoken and not of_stream:
            return [whole, *self._understood([m for m in found if m.kind is not None])]
        if self._understood(found) or (of_stream and array == []):
            return [msgspec.structs.replace(whole, stream=None), *found] if spoken else found
        return [msgspec.structs.replace(whole, stream=OTHER)]

    def _confirmation(self, whole: _Found, found: Sequence[_Found]) -> list[_Found]:
        """Those in the envelope, where each names a symbol itself, else the envelope; and messages that come with it."""
        inside = [m for m in found if m.kind is None or m.kind == whole.kind]
        named = all(
            getattr(self._decoded(m.value), "symbol", None) is not None and m.symbol is not None for m in inside
        )
        told = [msgspec.structs.replace(m, kind=whole.kind) for m in inside] if named else []
        return [
            *(told or [whole]),
            *self._understood([m for m in found if m.kind is not None and m.kind != whole.kind]),
        ]

    def _understood(self, found: list[_Found]) -> list[_Found]:
        """All of them, where one at least is of a stream, or says something to us; else none."""
        return found if any(m.stream != OTHER or m.kind in self._spoken for m in found) else []

    def _decoded(self, value: bytes) -> Any:
        """What is looked at of a message; None where it is no object."""
        try:
            return self._decoder.decode(value)
        except BROKEN:
            return None

    def _message(self, value: bytes, envelope: Any, head: Any) -> _Found:
        def look(name: str) -> Any:
            own = getattr(head, name, None)
            return own if own is not None else getattr(envelope, name, None)

        kind = _text(look("kind")) or ""
        own = envelope is None or getattr(head, "kind", None) is not None
        symbol, number = _text(look("symbol")), sequence_number(look("sequence"))
        return _Found(value, kind if own else None, self._kind(kind), symbol, number)


def _text(found: object) -> str | None:
    """A kind or a symbol: a text or a whole number; None where it is something else."""
    if type(found) is str:
        return found
    return str(found) if type(found) is int else None


@attrs.define(kw_only=True, eq=False)
class JsonFeedSource(FeedSource):
    """`FeedSource` of ``websocket:///path/feed.toml?symbols=AAPL,MSFT``: the file describes a `JsonFeed`."""

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> JsonFeedSource:
        """Make the source of ``websocket:///path/feed.toml?symbols=AAPL,MSFT``; without symbols those of the file count."""
        if uri.host or not uri.path.strip("/"):
            raise ConfigError(f"found {uri}, expected websocket:///absolute/path/feed.toml (three slashes)")
        of_source, _ = settings(
            uri,
            cls,
            JsonFeed,
            more=("symbols", "symbols_file"),
            unsettable=tuple(f.name for f in attrs.fields(JsonFeed)),
        )
        asked = {"symbols", "symbols_file"} & set(uri.settings)
        symbols = symbols_of(uri, uri.settings.get("symbols", "")) if asked else ()
        return cls(feed=JsonFeed.read(uri.path, symbols), **of_source)
