"""`morphomil`: what happens before anything is loaded. Signals have an end that is known, output
never ends the work, and texts have an encoding that holds every name; then the commands are loaded
(`app`)."""

import os
import re
import sys

from morphomil.cli import interruption, streams

ADDRESS_SPACE_GIB = 8
"""Networks and their libraries map so much, and fill a fraction of it."""
DATE = "SOURCE_DATE_EPOCH"
LIGHT = {"--help", "--version", "doctor"}
"""Whoever asks for this gets it on any machine."""


def run() -> None:
    """The entry point: errors become one sentence and the documented exit status."""
    interruption.listen()
    _speak_utf8()
    streams.guard()
    _drop_dates_that_are_none()
    _check_address_space()
    from morphomil.cli.app import start

    start()


def _check_address_space() -> None:
    """Libraries end the program without a word, or with a crash, where they can't map what they
    want; so too narrow a limit is told before they are loaded."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit
    except ImportError:  # Windows has no such limits
        return
    limit = getrlimit(RLIMIT_AS)[0]
    if limit == RLIM_INFINITY or limit >= ADDRESS_SPACE_GIB * 2**30 or LIGHT & set(sys.argv):
        return
    sys.stderr.write(
        f"morphomil: a process may map {limit / 2**30:.1f} GiB here (ulimit -v), and "
        f"{ADDRESS_SPACE_GIB} are needed, most of which are never filled; raise this limit, and "
        "limit memory by a control group instead\n"
    )
    sys.exit(2)


def _speak_utf8() -> None:
    """Names of files and texts may hold any character, whatever the machine's locale."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _drop_dates_that_are_none() -> None:
    """Libraries read this date, seconds since 1970, while they are loaded."""
    if not re.fullmatch("[0-9]{1,11}", os.environ.get(DATE, "0")):
        del os.environ[DATE]
