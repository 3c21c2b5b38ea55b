"""docker-compose.yml as Compose itself reads it, and its services as processes of an image that is a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
from steps import Image, Stage, as_user

from headrace.testing.servers.cache import program, provided, run
from headrace.testing.servers.process import free_port

ROOT = Path(__file__).parents[2]
LOADED = Path(__file__).parent / "loaded"
PAGE = (ROOT / "docs/pages/compose.md").read_text(encoding="utf-8")
SERVED = "9464"
"""The port at which each container says how it is; here they share one loopback, and each gets a port of its own."""


def composed(folder: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """
    The services, with the .env that docs/pages/compose.md makes and these settings besides: by the library that is Docker
    Compose's own, built by Go the first time.
    """
    sources = {path.name: path.read_bytes() for path in sorted(LOADED.iterdir())}
    digest = hashlib.sha256(b"".join(sources.values())).hexdigest()[:12]

    def build(into: Path) -> None:
        for name, source in sources.items():
            (into / name).write_bytes(source)
        go = program("go", "Go builds what reads docker-compose.yml")
        run([go, "build", "-o", "loaded", "."], cwd=into, environment={"GOFLAGS": "", "CGO_ENABLED": "0"})

    folder.mkdir(exist_ok=True)
    for name in ("docker-compose.yml", ".env.example"):
        shutil.copy(ROOT / name, folder)
    (block,) = re.findall(r"(?s)<!-- tested: makes .env -->\n```bash\n(.*?)```", PAGE)
    subprocess.run(["bash", "-euc", block], cwd=folder, check=True)
    with (folder / ".env").open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())
    command = [provided(f"compose-{digest}", build) / "loaded", "docker-compose.yml"]
    done = subprocess.run(
        command, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@attrs.define
class Service:
    """
    A service of ours: the image's entry point with the service's own command, as the image's user.

    Attributes:
        name: In docker-compose.yml.

        said: What docker-compose.yml says of it.

        image: Where it is installed.

        stage: Its user, environment and entry point.

        places: Addresses of docker-compose.yml, and where the same is here.
    """

    name: str
    said: Mapping[str, Any]
    image: Image
    stage: Stage
    places: Mapping[str, str]
    port: int = attrs.field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.image.folder / f"{self.name}.log"

    def here(self, text: str) -> str:
        for there, here in {**self.places, SERVED: str(self.port)}.items():
            text = re.sub(rf"(?<!\w){re.escape(there)}(?!\w)", here, text)  # and nothing within a secret
        return self.image.inside(text)

    def environment(self) -> dict[str, str]:
        own = self.image.environment(self.stage, self.said.get("environment") or {})
        return {name: self.here(value) for name, value in own.items()}

    def words(self, command: list[str]) -> list[str]:
        found = shutil.which(self.here(command[0]), path=self.environment()["PATH"])
        assert found, f"{command[0]} is not in the image"
        assert Path(found).is_relative_to(self.image.root), f"{found} is not the image's"
        return as_user([found, *map(self.here, command[1:])], self.stage.user)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def start(self) -> Self:
        command = [*(self.said.get("entrypoint") or self.stage.entrypoint), *self.said["command"]]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.words(command),
                cwd=self.image.inside(self.stage.folder),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def told(self, timeout_s: float = 60) -> list[str]:
        """What each `docker compose exec` of the page answers for this service."""
        lines = re.findall(rf"(?m)^docker compose exec {self.name} (.+)$", PAGE)
        return [self._answer(shlex.split(line, comments=True), timeout_s) for line in lines]

    def _answer(self, command: list[str], timeout_s: float) -> str:
        done = subprocess.run(
            self.words(command), env=self.environment(), timeout=timeout_s, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def once(self, timeout_s: float = 60) -> tuple[int, str]:
        """As `docker compose run --rm`: the exit code, and what was written."""
        before = self.log.stat().st_size if self.log.exists() else 0
        self.start()
        return self.process.wait(timeout_s), self.log.read_text(encoding="utf-8")[before:]

    def healthy(self) -> bool:
        """Run its health check, as Docker does: by the image's programs, in the service's environment, in its time."""
        check = self.said.get("healthcheck") or {}
        kind, *command = check.get("test") or ["CMD", *self.stage.healthcheck]
        assert kind == "CMD"
        done = subprocess.run(
            self.words(command),
            env=self.environment(),
            timeout=45,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name, with these labels; 0 where it does not answer."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        found = [re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line) for line in lines]
        return sum(float(m[2]) for m in found if m and all(label in (m[1] or "") for label in wanted))

    def stop(self) -> int:
        """As `docker stop`: the image's signal, and no longer than the grace period of docker-compose.yml."""
        self.process.send_signal(signal.Signals[self.stage.stop_signal])
        minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", self.said["stop_grace_period"]).groups("0")
        return self.process.wait(60 * int(minutes) + int(seconds))

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None and self.log.exists():
            print(f"---- {self.name}\n{self.log.read_text(encoding='utf-8')[-4000:]}")
