"""
What the connector's errors mean, by their numbers: versions 4 and 5 use other classes and other texts for the same failure.

The numbers are the service's (https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-api, its list of
error messages) and the connectors' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snowflake.connector import errors

from headrace.errors import CommitUnknownError, ConfigError, HeadraceError, SinkUnavailableError

LOCKED = {
    625: "a lock was not free within LOCK_TIMEOUT: another loader is at work on it; try again",
    626: "a lock was not free: another loader is at work on it; try again",
}
LATER = {
    604: "the statement was cancelled",
    630: "the statement took longer than STATEMENT_TIMEOUT_IN_SECONDS; raise statement_timeout_s or take a larger warehouse",
    90064: "the warehouse is suspended",
    90073: "a resource monitor keeps the warehouse suspended; its quota must be raised, or its interval must end",
    90232: "the transaction was ended",
}
GONE = (390104, 390108, 390110, 390111, 390112, 390114, 390115, 390195, 250002, 290401)
"""The session, or its token, has ended; the next call opens another one."""

WRONG = {
    606: "no warehouse is there to work with: name one (?warehouse=NAME), grant USAGE on it, or set AUTO_RESUME",
    2003: "it does not exist, or the role may not see it: see the grants in the docs",
    2043: "it does not exist, or the role may not see it: see the grants in the docs",
    3001: "the role lacks a right: see the grants in the docs",
    100072: "a column of the table is NOT NULL, and the contract does not fill it: mend the table or the contract",
}

_REFUSED_STATES = ("28000", "42501")
_REFUSED_LOGINS = (390100, 390101, 390102, 390144, 390201, 390303, 390318, 390420, 390422, 251001, 251005, 251006, 7)


def _is_wrong(error: errors.Error, number: int) -> bool:
    if number in WRONG:
        return True
    plain = isinstance(error, errors.ProgrammingError | errors.DataError | errors.IntegrityError)
    return plain and number not in GONE and not isinstance(error, errors.OperationalError)


def told(error: errors.Error, where: str) -> HeadraceError:
    """Make our error of a statement's; nothing that it did outside a transaction is undone."""
    number = error.errno if isinstance(getattr(error, "errno", None), int) else 0
    text = f"{where}: Snowflake answers {_short(error)}"
    if number in LOCKED:
        return SinkUnavailableError(f"{text}: {LOCKED[number]}")
    if number in LATER:
        return SinkUnavailableError(f"{text}: {LATER[number]}")
    if number in GONE:
        return SinkUnavailableError(f"{text}: the session has ended; the next call opens another one")
    if _is_wrong(error, number):
        return ConfigError(f"{text}{': ' + WRONG[number] if number in WRONG else ''}")
    return SinkUnavailableError(f"{text}; nothing was written by this call")


def refused_login(error: Exception, where: str) -> HeadraceError:
    """Make our error of a connection's that did not come about."""
    number, state = getattr(error, "errno", None), getattr(error, "sqlstate", None)
    text = f"{where}: no connection: {_short(error)}"
    wrong = isinstance(error, errors.ProgrammingError | ValueError | TypeError | FileNotFoundError | PermissionError)
    if wrong or number in _REFUSED_LOGINS or state in _REFUSED_STATES or "Authentication failed" in str(error):
        return ConfigError(f"{text}; check account, user, key or password, and the network policy")
    return SinkUnavailableError(f"{text}; nothing was written")


def is_loss(error: errors.Error) -> bool:
    """Whether the session is not to be used again: it has ended, or did not answer."""
    number = getattr(error, "errno", None)
    return number in GONE or not (number in LOCKED or number in LATER or _is_wrong(error, number or 0))


@contextmanager
def committing(where: str) -> Iterator[None]:
    """The same of a COMMIT, of which no failure says whether it happened (S5)."""
    try:
        yield
    except errors.Error as exc:
        raise CommitUnknownError(
            f"{where}: the answer to COMMIT is not known ({_short(exc)}); the same call settles it"
        ) from exc


def _short(error: Exception) -> str:
    """The first line of a message: what follows may repeat the statement, with what it holds."""
    first = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__} {getattr(error, 'errno', '')} ({first})"
