"""
Snowflake without an account: an emulator that real connectors talk to over HTTP, in a virtual environment of its own.

It is fakesnow's server on DuckDB, mended (`snowflake_emulator`); what it cannot show is listed in the docs.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from headrace.testing.servers.cache import NotWhatWasPinnedError, ServerMissing, provided, run
from headrace.testing.servers.process import Server, answers, free_port

_LOCK = Path(__file__).parent / "snowflake_emulator" / "packages.lock"
"""All packages, with their checksums; pip takes no other. Pinned, too, because the emulator is mended from inside."""

_NAME = "snowflake-emulator-1"


def python() -> Path:
    """
    Return the Python of the emulator's environment, made the first time.

    Raises:
        ServerMissing: It cannot be made here.
        NotWhatWasPinnedError: pip was given a package with another checksum; it was not installed.
    """

    def build(folder: Path) -> None:
        run([sys.executable, "-m", "venv", str(folder / "venv")], cwd=folder)
        pip = [
            str(folder / "venv" / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        try:
            run([*pip, "--require-hashes", "--only-binary=:all:", "-r", str(_LOCK)], cwd=folder)
        except ServerMissing as exc:
            if "DO NOT MATCH THE HASHES" in str(exc):
                raise NotWhatWasPinnedError(str(exc)) from exc
            raise

    return provided(_NAME, build) / "venv" / "bin" / "python"


@attrs.frozen
class SnowflakeEndpoint:
    """
    An account that a test may use, with a schema in it that no other test has.

    Attributes:
        settings: For `snowflake.connector.connect`; they may hold secrets.

        database: Where schemas are made.
    """

    settings: Mapping[str, Any] = attrs.field(repr=False)
    database: str = "HEADRACE"

    def connect(self, **given: Any) -> Any:
        """Connect as any client would: to look at what is really there."""
        import snowflake.connector  # noqa: PLC0415 - only with the extra snowflake

        # connector 5 warns where it is not given, older ones where it is
        new = snowflake.connector.__version__.split(".")[0] != "4"
        quiet: dict[str, Any] = {"platform_detection_timeout_seconds": 0.0}  # nor is it looked for which cloud this is
        quiet |= {"enable_server_session_keep_alive_auto_detection": False} if new else {}
        return snowflake.connector.connect(**{**quiet, **self.settings, **given})

    def uri(self, schema: str, table: str, **more: object) -> str:
        """Write the URI of a table's loader; it may hold a password."""
        given = {name: value for name, value in self.settings.items() if name not in ("user", "password", "account")}
        if "connection_name" in given:
            given["connection"] = given.pop("connection_name")
        query = "&".join(f"{name}={value}" for name, value in {"table": table, **given, **more}.items())
        user = f"{self.settings['user']}:{self.settings['password']}@" if "user" in self.settings else ""
        return f"snowflake://{user}{self.settings.get('account', '')}/{self.database}/{schema}?{query}"

    def schema(self) -> str:
        """Return a name that no other test has; who uses it makes it."""
        return f"T{secrets.token_hex(6)}".upper()


@attrs.define(kw_only=True, eq=False)
class Snowflake(Server):
    """
    The emulator, as one process; use it as a context.

    Attributes:
        port: On 127.0.0.1.

        durable: Keep everything in the folder, so that it outlives a kill; otherwise all is in memory.

        idle_s: A transaction is rolled back whose session was silent for so long while another one worked; 0: never.
            The service takes minutes.

        password: What `SnowflakeEndpoint.settings` hold; another one is refused.
    """

    port: int = attrs.field(factory=free_port)
    durable: bool = True
    idle_s: float = 0.0
    password: str = attrs.field(factory=lambda: secrets.token_hex(8), repr=False)

    def command(self) -> list[str]:
        state = [str(self.folder / "state")] if self.durable else []
        return [str(python()), str(Path(__file__).parent / "snowflake_emulator"), str(self.port), *state]

    def environment(self) -> dict[str, str]:
        return {
            "HEADRACE_SNOWFLAKE_PASSWORD": self.password,
            "HEADRACE_SNOWFLAKE_IDLE_S": str(self.idle_s),
            "PYTHONPATH": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def ready(self) -> bool:
        return answers(self.port)

    @property
    def endpoint(self) -> SnowflakeEndpoint:
        """How to reach it."""
        return self.through(self.port)

    def through(self, port: int) -> SnowflakeEndpoint:
        """How to reach it by another port, a proxy's."""
        place = {"host": "127.0.0.1", "port": port, "protocol": "http"}
        return SnowflakeEndpoint({"user": "tester", "password": self.password, "account": "emulator", **place})
