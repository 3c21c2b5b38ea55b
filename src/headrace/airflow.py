"""
What a task of Airflow needs of headrace: a component's URI out of a connection, which errors are worth a retry, a gate.

Nothing else of headrace knows Airflow, and importing this imports it not: the functions do, when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from headrace.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from headrace.auditing.result import AuditResult

__all__ = ["must_be_complete", "retry_policy", "uri"]

_OF_SNOWFLAKE = ("warehouse", "role", "authenticator", "private_key_file", "host", "port", "protocol")


def uri(connection_id: str, settings: Mapping[str, str] | None = None) -> str:
    """
    Write a connection as the URI of a source, a lake or a warehouse.

    The connection's extra holds ``{"uri": "s3://bucket/lake?endpoint_url=…", "settings": {"sasl.password": "…"}}``; its login
    and password, where it has them, become the URI's. A connection of the type ``snowflake`` is taken as Airflow's own provider
    writes it, without a URI: account, database, warehouse and role in the extra, the schema in its field.

    Args:
        connection_id: Of the connection, which is asked for now: call this inside a task, not where a DAG is made.

        settings: More of the URI's settings, for example ``{"table": "trades"}``; they win over the connection's own.

    Returns:
        The URI, with its secrets: hand it to headrace, and neither print nor return it.

    Raises:
        ConfigError: The connection holds neither a URI nor a Snowflake account. None of its values is shown.

        MissingExtraError: Airflow is not there, or is older than 3.3. What it raises for an unknown connection is its own.
    """
    connection = _airflow("sdk", "Connection").get(connection_id)
    extra: Mapping[str, Any] = connection.extra_dejson
    user, password = connection.login or "", connection.password or ""
    known: dict[str, Any] = dict(extra.get("settings") or {})
    if "uri" in extra:
        scheme, _, rest = str(extra["uri"]).partition("://")
    elif connection.conn_type == "snowflake" and {"account", "database"} <= extra.keys() and connection.schema:
        scheme, rest = "snowflake", f"{extra['account']}/{extra['database']}/{connection.schema}"
        known |= {name: extra[name] for name in _OF_SNOWFLAKE if extra.get(name)}
        if password and "private_key_file" in known:  # there the provider takes it for the key's
            known["private_key_passphrase"], password = password, ""
    else:
        found = ", ".join(sorted(extra)) or "nothing"
        raise ConfigError(
            f"connection {connection_id!r} is of type {connection.conn_type!r} and has in its extra {found};"
            ' expected {"uri": "s3://…"} in the extra, or the type snowflake with account and database there and its schema'
        )
    userinfo = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    query = urlencode({**known, **(settings or {})})
    joint = "" if not query else "&" if "?" in rest else "?"
    return f"{scheme}://{userinfo}{'@' if userinfo else ''}{rest}{joint}{query}"


def retry_policy() -> Any:
    """
    Make the `retry_policy` of tasks that run headrace.

    A `TransientError` is worth the task's retries. Any other error of headrace's is not: data and settings that are wrong stay
    so, and a retry would only put off the alert. Every other exception is left to the task's own settings.

    Raises:
        MissingExtraError: Airflow is not there, or is older than 3.3.
    """
    rule, action = _airflow("sdk", "RetryRule"), _airflow("sdk", "RetryAction")
    return _airflow("sdk", "ExceptionRetryPolicy")(
        [
            rule("headrace.errors.TransientError", action.RETRY, reason="it may answer later"),
            rule("headrace.errors.HeadraceError", action.FAIL, reason="a retry would find the same"),
        ]
    )


def must_be_complete(*results: AuditResult) -> None:
    """
    Let a task go on only where every audit says that all is there.

    Args:
        results: What `headrace.audit` returned.

    Raises:
        AirflowFailException: Something is wrong, and would be at every retry: the task fails at once. All findings are told.

        RuntimeError: Nothing is wrong, but something could not be told: a retry may.

        MissingExtraError: Airflow is not there.
    """
    for verdict, words in (
        ("incomplete", "is not complete"),
        ("unknown", "it could not be told whether it is complete"),
    ):
        told = [f"{r.stream}: {words}:\n" + "\n".join(map(str, r.findings)) for r in results if r.verdict == verdict]
        if told and verdict == "incomplete":
            raise _airflow("sdk.exceptions", "AirflowFailException")("\n".join(told))
        if told:
            raise RuntimeError("\n".join(told))


def _airflow(module: str, name: str) -> Any:
    try:
        return getattr(import_module(f"airflow.{module}"), name)
    except (ImportError, AttributeError) as exc:
        raise MissingExtraError(
            f"headrace.airflow needs Airflow 3.3 or newer ({exc}): pip install 'headrace[airflow]'"
        ) from exc
