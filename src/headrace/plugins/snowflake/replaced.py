"""
Targets that another one has taken over from (`headrace.typed.replaced`), and how that is done without DDL in a transaction (S4).

In DuckDB the readers' view and the old target's lock row change together. Here ``CREATE OR REPLACE VIEW`` commits by itself, so
one of them is first, and it is the lock row. `close` runs in a transaction that holds both targets' lock rows: it closes the old
one, writes down who follows, and compares the ledgers. *That* transaction is the swap: before it the old target is loaded and
seen, after it only the new one can be loaded. The views follow (`headrace.plugins.snowflake.views`), each replaced at once.

- Killed before COMMIT: nothing has changed.
- Killed between COMMIT and a view: its readers still see the old target, which has all that it had when it was closed and gets
  no more. The next call of any loader of the new target, or the same call again, makes the view.
- The other order would show readers the new target while the old one is still loaded: until somebody mended it they would miss
  what is loaded there, and then, when a loader of the old target made its view again, go back.
- ``ALTER TABLE … SWAP WITH`` exchanges two tables' names at once, but not lock rows, ledger and quarantine; a loader that was
  started before would put rows of one contract into the table of another.

Two reloads at once: each holds the lock row of its own target first, then asks for the old one's, whose version says whether it
is closed. Of two that want the same, the second finds it closed, and begins again at what the readers see now. Where two targets
want to take over from each other, the service ends one of them, or LOCK_TIMEOUT does; both are told to try again. A view that the
first puts over the second's, because it was held up between its look and its DDL, it gives back: it looks again (`Making.make`).
"""

from __future__ import annotations

from headrace.errors import CommitUnknownError, ConfigError, SinkUnavailableError
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import Tables
from headrace.typed.replaced import REPLACED, refuse_ahead


def followed(session: Session, tables: Tables) -> dict[str, str]:
    """Of each target of the schema that was replaced, the one that did it."""
    return dict(session.execute(f"SELECT TARGET, SUCCESSOR FROM {tables.replaced}"))


def close(session: Session, old: str, tables: Tables, attempt: str) -> None:
    """
    Close *old* in favour of a target, inside a transaction that holds that target's lock row.

    Raises:
        PositionConflictError: *old* is ahead in some line.
        SinkUnavailableError: Another target took over from it at this moment.
    """
    before, target = Tables(old), tables.target
    closed = session.changed(
        f"UPDATE {before.lock} SET OWNER = %s, CONTRACT = %s, CONTRACT_VERSION = %s WHERE CONTRACT_VERSION < %s"
        f" AND {tables.held}",
        *(attempt, target, REPLACED, REPLACED, attempt),
    )
    if closed != 1:
        raise SinkUnavailableError(f"{old} is being replaced by another target; nothing was changed, try again")
    noted = session.changed(
        f"INSERT INTO {tables.replaced} (TARGET, SUCCESSOR, REPLACED_AT) SELECT %s, %s, SYSDATE() WHERE {tables.held}",
        *(old, target, attempt),
    )
    if noted != 1:
        raise CommitUnknownError(f"{target}: the transaction was lost, nothing is kept")
    ahead = session.execute(
        "SELECT DATASET, STREAM, PARTITION, WAS, IS_NOW FROM (SELECT DATASET, STREAM, PARTITION,"
        " MAX(CASE WHEN TARGET = %s THEN END_OFFSET END) AS WAS,"
        " COALESCE(MAX(CASE WHEN TARGET = %s THEN END_OFFSET END), 0) AS IS_NOW"
        f" FROM {tables.ledger} WHERE TARGET IN (%s, %s) AND KIND IN ('load', 'begin_at') GROUP BY DATASET, STREAM, PARTITION)"
        " WHERE WAS > IS_NOW ORDER BY DATASET, STREAM, PARTITION LIMIT 1",
        *(old, target, old, target),
    )
    for dataset, stream, number, was, now in ahead:
        refuse_ahead(old, target, (dataset, stream, int(number)), int(was), int(now))


def refuse_unknown(there: set[str], old: str) -> None:
    """ConfigError where a target has no lock row to be closed: it was never loaded."""
    if Tables(old).lock not in there:
        raise ConfigError(f"{old} was never loaded here: there is nothing to take over from")
