"""Component URIs: what they are taken apart into, what they show, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.uri import URI, is_secret


@attrs.define(kw_only=True)
class Reader:
    """A component with a field of each kind that a URI can fill, and some that it cannot."""

    topic: str
    group: str | None = None
    partitions: int = 1
    ratio: float = 1.0
    loud: bool = False
    start: Literal["earliest", "latest"] = "earliest"
    flush_bytes: int = 0
    timeout_s: float = 30.0
    wait_s: float | None = None
    client_settings: Mapping[str, str] = attrs.field(factory=dict)
    _inner: int = 0
    found: int = attrs.field(default=0, init=False)


def fields(query: str, **more) -> dict[str, object]:
    return URI.parse(f"kafka://host/topic?{query}").fields(Reader, **more)


# ---- taking apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("kafka://h:9092/t?group=g", URI("kafka", "h:9092", "/t", {"group": "g"})),
        ("kafka://a:1,b:2/t", URI("kafka", "a:1,b:2", "/t")),
        ("kafka://[::1]:9092/t", URI("kafka", "[::1]:9092", "/t")),
        ("file:///lake", URI("file", "", "/lake")),
        ("FILE:///Lake", URI("file", "", "/Lake")),
        ("file://", URI("file", "", "")),
        ("duckdb:///a%20b.duckdb?table=t%26u", URI("duckdb", "", "/a b.duckdb", {"table": "t&u"})),
        ("s3://bucket/a/b?x=", URI("s3", "bucket", "/a/b", {"x": ""})),
        ("snowflake://me:p%40ss@acc/db", URI("snowflake", "acc", "/db", {}, "me", "p@ss")),
        ("s3+http://b/p", URI("s3+http", "b", "/p")),
    ],
)
def test_parse(text: str, uri: URI):
    """Scheme, host, path, settings, user and password, percent-decoded."""
    assert uri == URI.parse(text)


@pytest.mark.parametrize("text", ["", "lake", "file:/lake", "://x", "a b://c", "k%fka://h"])
def test_no_uri(text: str):
    """What is no URI is refused with an example of one."""
    with pytest.raises(ConfigError, match=r"found .* expected a URI such as kafka://"):
        URI.parse(text)


def test_bare_path():
    """Whoever gives a path is told how a path is written."""
    with pytest.raises(ConfigError, match="a path is written file:///data/lake"):
        URI.parse("/data/lake")


def test_setting_twice():
    """A setting that is given twice is refused: neither is meant more than the other."""
    with pytest.raises(ConfigError, match="'group' is given twice in the URI of kafka://h/t"):
        URI.parse("kafka://h/t?group=a&group=b")


@given(
    path=st.text(st.characters(exclude_categories=["Cs"])),
    value=st.text(st.characters(exclude_categories=["Cs"])),
    password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_any_text_survives(path: str, value: str, password: str):
    """Whatever stands in a path, a setting or a password arrives unchanged once it is percent-encoded."""
    text = f"kafka://me:{quote(password, safe='')}@h/{quote(path, safe='')}?group={quote(value, safe='')}"
    assert URI("kafka", "h", f"/{path}", {"group": value}, "me", password) == URI.parse(text)


# ---- showing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["password", "sasl.password", "client_secret", "token", "ssl.key.pem", "Private-Key"])
def test_secret_names(name: str):
    """Settings that are secrets are known by their names."""
    assert is_secret(name)


@pytest.mark.parametrize("name", ["group", "flush_bytes", "key", "compression", "sasl.username"])
def test_open_names(name: str):
    """Other settings are shown; a record's key is no secret."""
    assert not is_secret(name)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789", min_size=8))
def test_secrets_are_not_shown(secret: str):
    """No password and no secret setting is in what is printed, logged or raised."""
    uri = URI.parse(f"snowflake://me:hidden{secret}@acc/db?token=hidden{secret}&sasl.password=hidden{secret}&role=r")
    assert "snowflake://me:***@acc/db?token=***&sasl.password=***&role=r" == str(uri)
    assert f"hidden{secret}" not in str(uri) + repr(uri)


def test_str():
    """A URI without secrets is shown as it was given."""
    assert "kafka://h:9092/t?group=g" == str(URI.parse("kafka://h:9092/t?group=g"))


# ---- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("topic=t", {"topic": "t"}),
        ("group=g", {"group": "g"}),
        ("partitions=4", {"partitions": 4}),
        ("ratio=0.5", {"ratio": 0.5}),
        ("loud=true", {"loud": True}),
        ("loud=OFF", {"loud": False}),
        ("start=latest", {"start": "latest"}),
        ("flush-bytes=32MiB", {"flush_bytes": 33_554_432}),
        ("timeout_s=500ms", {"timeout_s": 0.5}),
        ("wait-s=2m", {"wait_s": 120.0}),
        ("client.id=me", {"client_settings": {"client.id": "me"}}),
    ],
)
def test_settings(query: str, found: dict[str, object]):
    """Settings become fields by name and type; those with a dot are the client library's own."""
    assert found == fields(query, dotted="client_settings")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("partitions=four", r"kafka://…\?partitions=four: expected int"),
        ("ratio=half", r"ratio=half: expected float"),
        ("loud=maybe", r"loud=maybe: expected bool"),
        ("start=middle", r"start=middle: expected one of earliest, latest"),
        ("flush_bytes=much", r"flush_bytes=much: expected int \(found 'much', expected a size"),
        ("timeout_s=soon", r"timeout_s=soon: expected float \(found 'soon', expected a time"),
    ],
)
def test_wrong_values(query: str, message: str):
    """A value that is not of its field's type is refused with what was expected."""
    with pytest.raises(ConfigError, match=message):
        fields(query)


@pytest.mark.parametrize("name", ["gruop", "client_settings", "_inner", "inner", "found", "client.id"])
def test_unknown_settings(name: str):
    """A setting that the component does not have, or that is none of a URI's business, is refused; the known ones are listed."""
    with pytest.raises(ConfigError, match=f"kafka:// has no setting '{name}'; expected one of .*group.*topic"):
        fields(f"{name}=x")


def test_client_settings_are_mentioned():
    """Where the client library's settings are taken, the message says how they are known."""
    with pytest.raises(ConfigError, match="any setting of the client library may be given too"):
        fields("gruop=x", dotted="client_settings")


def test_settings_of_the_caller():
    """What the caller reads itself is left to it, and listed among what is known."""
    assert {} == fields("epoch=2", leave=("epoch",))
    with pytest.raises(ConfigError, match="expected one of epoch, "):
        fields("epohc=2", leave=("epoch",))


def test_wrong_secret_is_not_shown():
    """The value of an unknown setting is not repeated: it may be a secret under a wrong name."""
    with pytest.raises(ConfigError) as raised:
        fields("pasword=hunter2")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "kafka://user:s3cr3t/PW@h:9/t",
        "kafka://user:s3cr3t?PW@h:9/t",
        "kafka://user:s3cr3t#PW@h:9/t",
        "user:s3cr3tPW@127.0.0.1:9/t?group=g",
        "user:s3cr3t/PW@127.0.0.1:9/t",
    ],
)
def test_password_that_is_not_written_right_is_not_shown(text: str):
    """It is refused, with the way to write it, and no part of it stands in the message."""
    with pytest.raises(ConfigError) as told:
        URI.parse(text)
    assert "s3cr3t" not in str(told.value)
    assert "PW" not in str(told.value)


def test_number_sign_in_a_path():
    """A path is not cut off at it."""
    with pytest.raises(ConfigError, match="%23"):
        URI.parse("file:///a#b")
    assert "/a#b" == URI.parse("file:///a%23b").path


@pytest.mark.parametrize("text", ["file:///a@b", "kafka://h:9092/t@x", "kafka://h/t?group=a@b", "kafka://u:p@h:9/t"])
def test_at_sign(text: str):
    """It is no password where the host is one."""
    URI.parse(text)


def test_fields_that_no_setting_sets():
    """What the URI says by its other parts cannot be said again, and is not proposed."""
    with pytest.raises(ConfigError, match=r"has no setting 'topic'; expected one of flush_bytes"):
        fields("topic=x", unsettable=("topic", "found", "group"))
