"""`morphomil`: what happens before anything is loaded. Signals have an end that is known, and texts
an encoding that holds every name; then the commands are loaded (`app`)."""

import os
import sys

from morphomil.cli import interruption


def run() -> None:
    """The entry point: errors become one sentence and the documented exit status."""
    interruption.listen()
    _speak_utf8()
    from morphomil.cli.app import start

    start()


def _speak_utf8() -> None:
    """Names of files and texts may hold any character, whatever the machine's locale; the terminal
    gets a replacement for those that it can't show."""
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
