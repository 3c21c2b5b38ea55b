"""The stand-in for Snowflake: exact where the service is exact, and it forgets nothing."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from snowflake.connector.errors import DatabaseError, ProgrammingError

from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.snowflake import Snowflake

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snowflake]:
    try:
        with Snowflake(folder=tmp_path_factory.mktemp("snowflake"), idle_s=0.5) as started:
            yield started
    except ServerMissing as exc:
        pytest.skip(str(exc))


@pytest.fixture
def connect(server: Snowflake):
    opened = []
    schema = f"T{secrets.token_hex(4)}".upper()

    def make(**given: object):
        opened.append(server.endpoint.connect(**{"database": "HEADRACE", "schema": schema, **given}))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def ask(connection, sql: str, *values: object) -> list[tuple]:
    return connection.cursor().execute(sql, values or None).fetchall()


def test_a_wrong_password(connect):
    """It is refused with the service's number."""
    with pytest.raises(DatabaseError) as told:
        connect(password="another")
    assert told.value.errno == 390100


def test_types(connect):
    """38 digits, nanoseconds and NULL come back as they went in."""
    connection = connect()
    ask(connection, "CREATE TABLE T (N NUMBER(38,0), D NUMBER(38,9), T TIMESTAMP_NTZ(9), B BINARY(67108864))")
    ask(
        connection,
        "INSERT INTO T SELECT %s, %s, TO_TIMESTAMP_NTZ(%s, 9), TO_BINARY('FF00', 'HEX')",
        10**38 - 1,
        Decimal("12345678901234567890123456789.123456789"),
        1_700_000_000_123_456_789,
    )
    ask(connection, "INSERT INTO T SELECT NULL, NULL, NULL, NULL")
    rows = ask(connection, "SELECT N, D, B, TO_CHAR(T) AS T FROM T ORDER BY N NULLS LAST")
    moment = "2023-11-14 22:13:20.123456789"
    assert rows == [(10**38 - 1, Decimal("12345678901234567890123456789.123456789"), b"\xff\x00", moment), (None,) * 4]
    early = dt.datetime(1969, 12, 31, 23, 59, 59, 500_000)  # noqa: DTZ001 - TIMESTAMP_NTZ has none
    assert ask(connection, "SELECT TO_TIMESTAMP_NTZ(-500000000, 9) AS T") == [(early,)]


def test_locks(connect):
    """Who meets a lock waits until it is free, and no longer than LOCK_TIMEOUT."""
    first, patient, hasty = connect(), connect(), connect(session_parameters={"LOCK_TIMEOUT": 0})
    ask(first, "CREATE TABLE T (N NUMBER(38,0))")
    ask(first, "INSERT INTO T SELECT 1")
    ask(first, "BEGIN")
    ask(first, "UPDATE T SET N = N + 1")
    ask(hasty, "BEGIN")
    with pytest.raises(ProgrammingError) as told:
        ask(hasty, "UPDATE T SET N = N + 10")
    assert told.value.errno == 625
    ask(patient, "BEGIN")
    waiting = threading.Thread(target=ask, args=(patient, "UPDATE T SET N = N + 100"))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    ask(first, "COMMIT")
    waiting.join(30)
    ask(patient, "COMMIT")
    assert ask(first, "SELECT N FROM T") == [(102,)]


def test_a_client_that_vanished(connect):
    """Its transaction is rolled back when another one works, so that its lock is free."""
    gone, other = connect(), connect(session_parameters={"LOCK_TIMEOUT": 20})
    ask(gone, "CREATE TABLE T (N NUMBER(38,0))")
    ask(gone, "INSERT INTO T SELECT 1")
    ask(gone, "BEGIN")
    ask(gone, "UPDATE T SET N = 7")
    ask(other, "UPDATE T SET N = N + 10")
    assert ask(other, "SELECT N FROM T") == [(11,)]


def test_staged_files(connect, tmp_path: Path):
    """A stage takes files, lists and removes them."""
    connection = connect()
    (tmp_path / "a.txt").write_bytes(b"x")
    ask(connection, "CREATE STAGE S")
    (put,) = ask(connection, f"PUT 'file://{tmp_path}/a.txt' @S/one/ AUTO_COMPRESS=FALSE OVERWRITE=TRUE")
    assert put[6] == "UPLOADED"
    assert [row[0] for row in ask(connection, "LIST @S")] == ["s/one/a.txt"]
    ask(connection, "REMOVE @S/one/")
    assert ask(connection, "LIST @S") == []


def test_kill(connect, server: Snowflake):
    """What was committed is there after a kill; what was not is gone."""
    connection = connect()
    ask(connection, "CREATE TABLE T (N NUMBER(38,0))")
    ask(connection, "INSERT INTO T SELECT 1")
    ask(connection, "BEGIN")
    ask(connection, "INSERT INTO T SELECT 2")
    server.kill()
    server.start()
    assert ask(connect(), "SELECT N FROM T") == [(1,)]
