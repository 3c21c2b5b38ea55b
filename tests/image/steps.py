"""
Runs the steps of a Dockerfile without Docker: in a folder that stands for the root of the image, by Docker's own parser.

What a stage does to `/opt`, `/etc` and so on it does to the same path below the folder. A stage that is done is put aside, so
that the next one finds its root where the one before had it: a virtual environment that is copied from there still fits. The base
image is an empty root, and this machine's Python under the name `python`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import attrs
import dockerfile

PLACES = re.compile(r"(?<![\w.-])/(?=(?:build|etc|home|opt|srv)(?:/|\b))")
"""Where an absolute path of the image begins; other paths are the machine's, such as the cache of an installer."""
KEPT = re.compile(r"(PIP|UV|SSL|REQUESTS|CURL|HTTPS?|NO|https?|no)_\w+|HOME")


def python_for_all() -> str:
    """A Python 3.11 or newer that users other than root can run, where there is one; else the one that runs this."""
    found = [os.path.realpath(sys.executable), *(f"/usr/bin/python3.{minor}" for minor in range(20, 10, -1))]
    for path in found:
        probe = as_user([path, "-c", "import ensurepip, ssl, venv"])
        if Path(path).exists() and not subprocess.run(probe, check=False, capture_output=True).returncode:
            return path
    return found[0]


def as_user(words: Sequence[str], user: str = "10001:10001") -> list[str]:
    """The command as that user, without a capability and without a way to get one, where we may choose."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return list(words)
    uid, gid = user.split(":")
    rights = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    # setpriv still has its rights when it executes: the shell has none, and finds no program that its user may not see
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        *rights,
        "/bin/sh",
        "-c",
        'exec env --default-signal "$0" "$@"',
        *words,
    ]


@attrs.define
class Stage:
    """What a stage has come to."""

    root: Path
    environment: dict[str, str] = attrs.field(factory=dict)
    folder: str = "/"
    user: str = ""
    entrypoint: list[str] = attrs.field(factory=list)
    command: list[str] = attrs.field(factory=list)
    healthcheck: list[str] = attrs.field(factory=list)
    labels: dict[str, str] = attrs.field(factory=dict)
    stop_signal: str = "SIGTERM"
    told: str = ""


@attrs.define
class Image:
    """
    An image, as far as a folder can be one.

    Attributes:
        context: What `docker build` would be given.

        folder: Empty; everything is made in there.

        arguments: As by ``--build-arg``.

        rehearsed: Stages of which every package is looked up, and none installed: `Stage.told` says which it would be.

        stages: Those that are built.
    """

    context: Path
    folder: Path
    arguments: dict[str, str] = attrs.field(factory=dict)
    rehearsed: Collection[str] = ()
    stages: dict[str, Stage] = attrs.field(factory=dict, init=False)
    _globals: dict[str, str] = attrs.field(factory=dict, init=False)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def inside(self, text: str) -> str:
        """The text with the image's paths where they are here."""
        return PLACES.sub(f"{self.root}/", text)

    def build(self, *targets: str) -> list[Stage]:
        """Run what leads to these stages, each step once, and leave the last one at `root`."""
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(parents=True)
        self._program(bin_folder / "python", python_for_all())
        if os.geteuid() != 0:  # only root gives files away; there is one user, then
            self._program(bin_folder / "chown", "true")
        said, instructions = {}, dockerfile.parse_file(str(self.context / "Dockerfile"))
        for one in instructions:
            if one.cmd == "FROM":
                said[one.value[2]] = [one]
            elif said:
                said[next(reversed(said))].append(one)
            else:
                self._globals |= dict(word.split("=", 1) for word in one.value)
        for name in dict.fromkeys(found for target in targets for found in self._order(target, said)):
            self.stages[name] = self._stage(name, said[name])
            if name != targets[-1]:
                aside = self.folder / "stages" / name
                aside.parent.mkdir(exist_ok=True)
                self.stages[name].root = self.root.rename(aside)
        return [self.stages[target] for target in targets]

    def environment(self, stage: Stage, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a process of this stage is given: nothing of this process's own."""
        own = {**stage.environment, **(more or {})}
        machine = {"PATH": f"{self.folder}/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        return {**machine, **{name: self.inside(value) for name, value in own.items()}}

    @staticmethod
    def _program(path: Path, target: str) -> None:
        path.write_text(f'#!/bin/sh\nexec {target} "$@"\n', encoding="utf-8")
        path.chmod(0o755)

    def _order(self, name: str, stages: Mapping[str, list[dockerfile.Command]]) -> list[str]:
        """A stage behind all that it is made of, each once: what is not needed is not built."""
        first, *rest = stages[name]
        needed = [first.value[0]] + [
            f.removeprefix("--from=") for c in rest for f in c.flags if f.startswith("--from=")
        ]
        order = [found for one in needed if one in stages for found in self._order(one, stages)]
        return [*dict.fromkeys(order), name]

    def _stage(self, name: str, instructions: list[dockerfile.Command]) -> Stage:
        first, *rest = instructions
        self.root.mkdir()
        if (base := self.stages.get(first.value[0])) is not None:
            self._linked(base.root, self.root)
            stage = attrs.evolve(base, root=self.root, environment=dict(base.environment), labels=dict(base.labels))
        else:
            stage = Stage(self.root, {"PATH": f"{self.folder}/bin:/usr/local/bin:/usr/bin:/bin"})
        for folder in ("etc", "opt", "home", "srv"):
            (self.root / folder).mkdir(exist_ok=True)
        known: dict[str, str] = {}
        for one in rest:
            self._step(stage, one, known, rehearsed=name in self.rehearsed)
        return stage

    def _step(self, stage: Stage, one: dockerfile.Command, known: dict[str, str], *, rehearsed: bool) -> None:
        words = [self._filled(word, {**known, **stage.environment}) for word in one.value]
        pairs = dict(zip(words[::2], (word.strip('"') for word in words[1::2]), strict=False))
        match one.cmd:
            case "ARG":
                name, _, default = words[0].partition("=")
                known[name] = self.arguments.get(name, default or self._globals.get(name, ""))
            case "ENV":
                stage.environment |= pairs
            case "LABEL":
                stage.labels |= pairs
            case "WORKDIR":
                stage.folder = words[0]
                Path(self.inside(words[0])).mkdir(parents=True, exist_ok=True)
            case "USER":
                stage.user = words[0]
            case "STOPSIGNAL":
                stage.stop_signal = words[0]
            case "ENTRYPOINT" | "CMD":
                assert one.json, f"line {one.start_line}: by a shell it would never see the signal"
                setattr(stage, {"ENTRYPOINT": "entrypoint", "CMD": "command"}[one.cmd], words)
            case "HEALTHCHECK":
                stage.healthcheck = words[1:]
            case "COPY":
                self._copy(stage, words, {f.partition("=")[0]: f.partition("=")[2] for f in one.flags})
            case "RUN":
                self._run(stage, one, {**known, **stage.environment}, rehearsed=rehearsed)
            case other:
                raise AssertionError(f"line {one.start_line}: nobody has said here what {other} does")

    @staticmethod
    def _filled(word: str, known: Mapping[str, str]) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda m: known.get(m[1], ""), word)

    def _copy(self, stage: Stage, words: list[str], flags: Mapping[str, str]) -> None:
        assert set(flags) <= {"--from"}, flags
        *sources, target = words
        place = Path(self.inside(os.path.join(stage.folder, target)))  # noqa: PTH118 - a path of the image
        other = flags.get("--from")
        for source in sources:
            found = self.stages[other].root / source.lstrip("/") if other else self.context / source
            into = place / found.name if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            if other:
                self._linked(found, into)
            elif found.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                shutil.copyfile(found, into)

    @staticmethod
    def _linked(found: Path, into: Path) -> None:
        """The same files, with their owners, under another name: nothing here changes a file that an earlier stage made."""
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-al", f"{found}/.", into], check=True)

    def _run(self, stage: Stage, one: dockerfile.Command, known: Mapping[str, str], *, rehearsed: bool) -> None:
        assert not stage.user, f"line {one.start_line}: what is built is built by root, and run by another"
        environment = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        environment |= {name: self.inside(value) for name, value in known.items()}
        (script,) = one.value
        if rehearsed:
            script = script.replace("uv pip install --quiet", "uv pip install --dry-run")
        done = subprocess.run(
            ["/bin/sh", "-c", self.inside(script)],
            cwd=self.inside(stage.folder) if stage.folder != "/" else self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        stage.told += done.stdout + done.stderr
        assert done.returncode == 0, f"line {one.start_line}: {shlex.join([script])}\n{stage.told}"
