"""
The exit codes, which stay as they are.

==== =================================================================================================
0    done; a run without an end that SIGTERM told to stop has committed and left
1    the data is not as it should be: a gap, a damaged segment, another stream, a check that failed
2    a wrong option, setting, plugin or contract
3    a service did not answer, for as long as it was tried
70   a fault of headrace or of a plugin: the traceback is printed
74   standard output could not be written
130  stopped by SIGINT, 143 by SIGTERM, before it was done; nothing is lost, run it again
==== =================================================================================================
"""

from __future__ import annotations

import signal

from headrace.errors import ConfigError, DataError, HeadraceError, IdentityError, PluginError, TransientError

DONE, DATA, USAGE, UNAVAILABLE, FAULT, OUTPUT = 0, 1, 2, 3, 70, 74


def code_of(error: HeadraceError) -> int:
    """The exit code that says what kind of error it is."""
    if isinstance(error, (IdentityError, DataError)):
        return DATA
    if isinstance(error, TransientError):
        return UNAVAILABLE
    if isinstance(error, (ConfigError, PluginError)):
        return USAGE
    return DATA


def code_of_stop(number: int | None, *, endless: bool) -> int:
    """
    The exit code of a run that ended without an error, *number* being the signal that ended it, if any did.

    SIGTERM is how a service manager ends a run that has no end of its own: that is no failure. SIGINT comes from a person,
    and the shell script around it wants to know.
    """
    if number is None or (endless and number == signal.SIGTERM):
        return DONE
    return 128 + number
