"""Drives a real headless Firefox over Marionette, the protocol below WebDriver; nothing to
install."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c"}
PREFERENCES = {
    "marionette.port": 0,  # any free one
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.normandy.enabled": False,
}


class Firefox:
    """One page of a headless Firefox; the methods are those of `chromium.Browser`."""

    problems: tuple[str, ...] = ()
    """It doesn't tell what its console says."""

    def __init__(self, profile: Path) -> None:
        profile.mkdir(parents=True)
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "--headless", "--marionette", "--no-remote", "--profile", str(profile)],
            env=os.environ | {"HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._last, self._buffer = 0, b""
        self._connection = self._connect(profile / "MarionetteActivePort")
        self._receive()  # who it is
        self.call("WebDriver:NewSession", capabilities={"alwaysMatch": {}})

    def _connect(self, port: Path) -> socket.socket:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            if port.is_file() and (text := port.read_text().strip()):
                try:
                    return socket.create_connection(("127.0.0.1", int(text)), timeout=90)
                except ConnectionError:
                    pass
            time.sleep(0.2)
        self._process.kill()
        raise RuntimeError("Firefox doesn't start")

    def __enter__(self) -> Firefox:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> Any:
        while b":" not in self._buffer:
            self._buffer += self._read()
        size, self._buffer = self._buffer.split(b":", 1)
        while len(self._buffer) < int(size):
            self._buffer += self._read()
        message, self._buffer = self._buffer[: int(size)], self._buffer[int(size) :]
        return json.loads(message)

    def _read(self) -> bytes:
        part = self._connection.recv(1 << 16)
        if not part:
            raise RuntimeError("Firefox ended")
        return part

    def call(self, method: str, **parameters: Any) -> Any:
        """A command and its answer."""
        self._last += 1
        message = json.dumps([0, self._last, method, parameters]).encode()
        self._connection.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._receive()
        if error:
            raise RuntimeError(f"{method}: {error['message']}")
        return result

    def open(
        self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> None:
        """Open a page and wait until it is loaded."""
        del dark  # as the system has it
        self.call("WebDriver:SetWindowRect", width=width, height=height)
        self.call("WebDriver:Navigate", url=address)

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.call("WebDriver:ExecuteScript", script=f"return ({script})", args=[])["value"]

    def wait(self, script: str, *, seconds: float = 30) -> None:
        """Wait until an expression is true.

        Raises:
            TimeoutError: it didn't become true.
        """
        end = time.monotonic() + seconds
        while not self.ask(script):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} did not become true in {seconds:g} s")
            time.sleep(0.1)

    def press(self, key: str, *, code: str = "", number: int = 0, text: str = "") -> None:
        """Press and release a key where the focus is."""
        del code, number, text
        value = KEYS.get(key, key)
        steps = [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": steps})

    def click(self, x: float, y: float) -> None:
        """Move the mouse there and click."""
        self._point("mouse", x, y)

    def tap(self, x: float, y: float) -> None:
        """Touch there for a moment."""
        self._point("touch", x, y)

    def _point(self, kind: str, x: float, y: float) -> None:
        steps = [
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        parameters = {"pointerType": kind}
        self._act({"type": "pointer", "id": kind, "parameters": parameters, "actions": steps})

    def _act(self, source: dict[str, Any]) -> None:
        self.call("WebDriver:PerformActions", actions=[source])

    def screenshot(self, path: Path) -> None:
        """What the page shows, as PNG."""
        shown = self.call("WebDriver:TakeScreenshot", full=False)["value"]
        path.write_bytes(base64.b64decode(shown))
