"""The hooks that a plugin may implement, and what they carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import pluggy

hookspec = pluggy.HookspecMarker("headrace")
hookimpl = pluggy.HookimplMarker("headrace")

Kind = Literal["source", "sink", "store", "loader"]


@attrs.frozen
class Component:
    """
    Something a plugin can make, named by import path so that nothing is imported until one is made.

    Attributes:
        kind: What it is.

        scheme: The part of a URI before ``://``.

        path: ``package.module:Class``. The class has a class method ``from_uri(uri, registry)``; a loader's takes
            ``contract`` as well.

        extra: The extra of headrace that installs its client library; "" where it needs none, or is not ours.

        summary: One line for `headrace plugins`.
    """

    kind: Kind
    scheme: str
    path: str
    extra: str = ""
    summary: str = ""


@attrs.frozen
class Ended:
    """
    How a command of ours ended.

    Attributes:
        command: "stream", "load", "redrive", "reload", "audit" or "expire".

        code: Its exit code.

        document: What ``--json`` prints, as what JSON can hold: the result, an audit's findings; or ``error`` with its ``type``
            and ``message``. No secrets.
    """

    command: str
    code: int
    document: Mapping[str, object] = attrs.field(repr=False)


class PluginSpecs:
    """What a plugin brings."""

    @hookspec
    def headrace_components(self) -> Iterable[Component]:  # type: ignore[empty-body]  # a spec has no body
        """
        Return the sources, sinks, stores and loaders that this plugin can make.

        Called once, when plugins are discovered. Name the classes by import path; import no client library here.
        """

    @hookspec
    def headrace_ended(self, ended: Ended) -> None:
        """
        Hear that a command has ended, in its process, after it has said so itself: for a notifier.

        Called once, whether it succeeded or not, and not where the process was killed. What is raised here is logged, and changes
        neither the exit code nor what other plugins hear. The command waits: bound what you do.
        """
