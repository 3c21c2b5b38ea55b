"""PostgreSQL without a container, for what keeps its state in one, as Airflow does: its programs from a Maven repository."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import attrs

from headrace.testing.servers.cache import ServerMissing, program, provided, run, verify_file
from headrace.testing.servers.process import Server, free_port

VERSION = "17.6.0"
_GROUP = "io.zonky.test.postgres"  # https://github.com/zonkyio/embedded-postgres-binaries
_JARS = {
    "x86_64": (
        "amd64",
        "sha512-Ww4Kgv3Czey8Br6mcrXwcNyz+FCqKZ90rWNmLt1Q2WhilRoPdOniAzU+lMLXjuE13OYlUXYqmyYo+xvcegh4dQ==",
    ),
    "aarch64": (
        "arm64v8",
        "sha512-thC+5KVNHn5h5IJL13kgk6i5NfInOc1eeXWls3jKTCyPAfoozYavxzOm1ziVvae8vNU6baweRkEDIarcv5m6TQ==",
    ),
}
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headrace</groupId><artifactId>postgres</artifactId><version>1</version>
<dependencies><dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>
</dependencies></project>
"""
_NOBODY = 65534
_AS_NOBODY = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")


def programs() -> Path:
    """
    Return the folder with ``bin/postgres`` and ``bin/initdb``, fetched the first time.

    Raises:
        ServerMissing: Maven is not there, or could not; or nobody makes these programs for this processor.
        NotWhatWasPinnedError: Maven was given another jar.
    """
    machine = platform.machine()
    if machine not in _JARS:
        raise ServerMissing(f"there is no PostgreSQL for {machine}; there is one for {', '.join(_JARS)}")
    kind, digest = _JARS[machine]

    def fetch(folder: Path) -> None:
        maven = program("mvn", "Maven fetches PostgreSQL")
        name = f"embedded-postgres-binaries-linux-{kind}"
        (folder / "pom.xml").write_text(_POM.format(group=_GROUP, name=name, version=VERSION), encoding="utf-8")
        run([maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"], cwd=folder)
        jar = folder / "jars" / f"{name}-{VERSION}.jar"
        verify_file(jar, digest)
        with zipfile.ZipFile(jar) as outer:
            (packed,) = (entry for entry in outer.namelist() if entry.endswith(".txz"))
            with outer.open(packed) as inner, tarfile.open(fileobj=inner, mode="r:xz") as archive:
                archive.extractall(folder / "postgres", filter="data")
        shutil.rmtree(folder / "jars")

    return provided(f"postgres-{VERSION}", fetch) / "postgres"


@attrs.define(kw_only=True, eq=False)
class Postgres(Server):
    """
    One PostgreSQL on 127.0.0.1, for whom has the password of *user*; use it as a context.

    It does not run as root: started by root, it runs as nobody, from a copy of its programs under /tmp, where nobody may read
    it. Its data are there as well, and are gone after `stop`.

    Attributes:
        port: On 127.0.0.1.

        user: Its owner.

        password: Of *user*.

        database: Which of those that it begins with is used.
    """

    port: int = attrs.field(factory=free_port)
    user: str = "postgres"
    password: str = attrs.field(factory=lambda: secrets.token_hex(8), repr=False)
    database: str = "postgres"
    _home: Path | None = attrs.field(default=None, init=False)

    @property
    def url(self) -> str:
        """What comes behind ``postgresql+DRIVER://``; it holds the password."""
        return f"{self.user}:{self.password}@127.0.0.1:{self.port}/{self.database}"

    @property
    def data(self) -> Path:
        """Where it keeps everything, while the context lasts."""
        return self._place() / "data"

    def command(self) -> list[str]:
        home, plain = self._place(), self._plain()
        if not self.data.exists():
            secret = home / "password"
            secret.touch(mode=0o600)
            secret.write_text(self.password, encoding="utf-8")
            self.data.mkdir(mode=0o700)
            if os.geteuid() == 0:
                for path in (secret, self.data):
                    os.chown(path, _NOBODY, _NOBODY)
            options = ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={self.user}"]
            initdb = [str(home / "postgres/bin/initdb"), *options, f"--pwfile={secret}", "-D", str(self.data)]
            run([*plain, *initdb], cwd=home)
            secret.unlink()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "fsync": "off",  # a killed process loses nothing by it, and the machine's power is not cut here
        }
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*plain, str(home / "postgres/bin/postgres"), "-D", str(self.data), "-p", str(self.port), *given]

    def ready(self) -> bool:
        # https://github.com/postgres/postgres/blob/REL_17_6/src/include/utils/pidfile.h
        told = self.data / "postmaster.pid"
        lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
        return self._process is not None and lines[:1] == [str(self._process.pid)] and lines[7:] == ["ready   "]

    def start(self) -> None:
        try:
            super().start()
        except BaseException:
            self._forget()  # nobody stops what did not start
            raise

    def stop(self, timeout_s: float = 30.0) -> None:
        super().stop(timeout_s)
        self._forget()

    def _forget(self) -> None:
        """Take its copy and its data away."""
        if self._home is not None:
            shutil.rmtree(self._home)
            self._home = None

    def _plain(self) -> list[str]:
        """What a command begins with, so that it is not root's."""
        if os.geteuid() != 0:
            return []
        return [program("setpriv", "PostgreSQL does not run as root"), *_AS_NOBODY]

    def _place(self) -> Path:
        """The folder of programs and data: of a name that is short, and that nobody's parents hide."""
        if self._home is None:
            found = programs()
            self._home = Path(tempfile.mkdtemp(prefix="headrace-postgres-", dir="/tmp"))
            self._home.chmod(0o755)
            shutil.copytree(found, self._home / "postgres", symlinks=True)
        return self._home
