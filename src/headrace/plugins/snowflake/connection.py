"""One session with Snowflake: opened late, never reconnected by itself, its errors in our words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import snowflake.connector
from snowflake.connector import errors

from headrace.errors import SinkUnavailableError
from headrace.plugins.snowflake.account import NEW, Account
from headrace.plugins.snowflake.answers import committing, is_loss, refused_login, told

Row = tuple[Any, ...]


@attrs.define
class Session:
    """
    A connection.

    Attributes:
        connection: The connector's.

        where: Begins the messages of errors.

        lost: It did not answer, or is no longer known: nothing is sent by it any more.
    """

    connection: Any
    where: str
    lost: bool = False

    def execute(self, statement: str, *values: object) -> list[Row]:
        """Execute one statement, its values in the place of each ``%s``, and return all rows of its answer."""
        if self.lost:
            raise SinkUnavailableError(f"{self.where}: the session was lost before; nothing was written by this call")
        try:
            return self._execute(statement, *values)
        except errors.Error as exc:
            self.lost = is_loss(exc)
            raise told(exc, self.where) from exc

    def _execute(self, statement: str, *values: object) -> list[Row]:
        cursor = self.connection.cursor()
        try:
            cursor.execute(statement, values or None)
            return [tuple(bytes(v) if isinstance(v, bytearray) else v for v in row) for row in cursor.fetchall()]
        finally:
            with suppress(errors.Error):
                cursor.close()

    def changed(self, statement: str, *values: object) -> int:
        """Execute a statement that writes, and return how many rows it changed."""
        return int(self.execute(statement, *values)[0][0])

    def commit(self) -> None:
        """COMMIT; CommitUnknownError where its answer does not say that it happened."""
        with committing(self.where):
            self.connection.cursor().execute("COMMIT")

    def close(self) -> None:
        """Log out; what goes wrong is of no consequence."""
        with suppress(errors.Error, OSError):
            self.connection.close()


def opened(
    account: Account,
    *,
    database: str,
    schema: str,
    where: str,
    parameters: Mapping[str, object],
    timeout_s: float,
    connect: Callable[..., Any] = snowflake.connector.connect,
) -> Session:
    """
    Log in, with AUTOCOMMIT on: a transaction is what BEGIN begins.

    Args:
        account: Where and as whom.

        database: That names without one belong to.

        schema: The same.

        where: Begins the messages of errors.

        parameters: Of the session.

        timeout_s: Of a request over the network; the statement's own is a parameter.

        connect: The connector's function.

    Raises:
        ConfigError: The service refuses it.
        SinkUnavailableError: The service does not answer.
    """
    settings = account.settings()
    # which cloud this machine is in is no business of a login's, and half a second of it
    bounds: dict[str, Any] = {"login_timeout": max(int(timeout_s), 1), "platform_detection_timeout_seconds": 0.0}
    if NEW:
        bounds |= {"request_timeout": max(int(timeout_s), 1), "enable_server_session_keep_alive_auto_detection": False}
    else:
        bounds |= {"network_timeout": max(int(timeout_s), 1)}
    try:
        connection = connect(
            **{**bounds, **settings},
            database=database,
            schema=schema,
            autocommit=True,
            application="headrace",
            session_parameters={"TIMEZONE": "UTC", **parameters},
        )
    except (errors.Error, ValueError, TypeError, OSError) as exc:
        raise refused_login(exc, where) from exc
    return Session(connection, where)
