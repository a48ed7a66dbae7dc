"""Firefox, headless, driven over Marionette: the remote protocol that it brings along.

`marionette_driver` from PyPI speaks it, too. One of its dependencies has no wheel, so that the lock
cannot hold it, and the tests need little of the protocol.
"""

import base64
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

PREFERENCES = {
    # A microphone that needs no device, and no question about it.
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    # A sound device that is not real: without a device, no AudioContext runs.
    "media.cubeb.force_mock_context": True,
    # A call within this machine, which may have no network.
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    # Marionette chooses a free port and writes it down. Nothing is asked for and nothing fetched.
    "marionette.port": 0,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    # The style below is read.
    "toolkit.legacyUserProfileCustomizations.stylesheets": True,
}

STYLE = ":root { min-width: 0 !important }"
"""The browser's own window, which is else no narrower than 500 pixels: phones are."""

START_SECONDS = 60
COMMAND_SECONDS = 120
TAB, RIGHT, END = "\ue004", "\ue014", "\ue010"
"""Keys without a character, by WebDriver's code points."""

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of a reference to an element, as the WebDriver standard has it."""

_TEXT = """((found) => found?.checkVisibility() ? found.innerText : "")(
  document.querySelector(arguments[0])
)"""


def program() -> str:
    """The path of a Firefox, which its tests cannot do without."""
    for name in ("firefox-esr", "firefox"):
        if path := shutil.which(name):
            return path
    raise AssertionError("The browser tests need Firefox: run `make test`, which installs it.")


class Failed(AssertionError):
    """What Firefox says of a command that it could not do."""


class Firefox:
    """One window of a running Firefox."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._ids = itertools.count(1)
        self._read()  # its greeting
        self._ask("WebDriver:NewSession", capabilities={"alwaysMatch": {}})

    def open(self, address: str) -> None:
        """Load a page."""
        self._ask("WebDriver:Navigate", url=address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, in its own scope; returns what it returns."""
        asked = {"script": script, "args": list(arguments), "sandbox": None, "newSandbox": False}
        return self._ask("WebDriver:ExecuteScript", **asked)["value"]

    def click(self, selector: str) -> None:
        """Click on an element, as a user does: it has to be visible."""
        found = self._ask("WebDriver:FindElement", using="css selector", value=selector)
        self._ask("WebDriver:ElementClick", id=found["value"][ELEMENT])

    def press(self, selector: str, keys: str) -> None:
        """Press keys on an element, which gets the focus: a text, or one of the keys above."""
        found = self._ask("WebDriver:FindElement", using="css selector", value=selector)
        self._ask("WebDriver:ElementSendKeys", id=found["value"][ELEMENT], text=keys)

    def fill(self, selector: str, text: str) -> None:
        """Write a text into a field, in place of what is there."""
        found = self._ask("WebDriver:FindElement", using="css selector", value=selector)
        self._ask("WebDriver:ElementClear", id=found["value"][ELEMENT])
        self.press(selector, text)

    def resize(self, width: int, height: int) -> None:
        """Give the page so many pixels."""
        around = self.run("return [outerWidth - innerWidth, outerHeight - innerHeight]")
        rect = {"width": width + around[0], "height": height + around[1]}
        self._ask("WebDriver:SetWindowRect", **rect)
        self.until("innerWidth === arguments[0] && innerHeight === arguments[1]", width, height)

    def screenshot(self, *, full: bool = False) -> bytes:
        """The page as a PNG: what is in sight, or all of it."""
        shot = self._ask("WebDriver:TakeScreenshot", full=full, hash=False)["value"]
        return base64.b64decode(shot)

    def text(self, selector: str) -> str:
        """The text of the first element that a selector finds, if it can be seen."""
        return self.run(f"return {_TEXT}", selector)

    def until(self, condition: str, *arguments: Any, seconds: float = 60) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})", *arguments):
            if time.monotonic() > deadline:
                page = self.run("return document.body.innerText")
                raise AssertionError(f"waited in vain for {condition}, {arguments}, in:\n{page}")
            time.sleep(0.05)

    def until_text(self, selector: str, text: str, seconds: float = 60) -> None:
        """Wait until an element that can be seen has a text in it."""
        self.until(f"{_TEXT}.includes(arguments[1])", selector, text, seconds=seconds)

    def close(self) -> None:
        """End the program."""
        with contextlib.suppress(OSError, Failed):
            self._ask("Marionette:Quit", flags=["eForceQuit"])
        self._stream.close()
        self._connection.close()

    def _ask(self, command: str, **parameters: Any) -> Any:
        number = next(self._ids)
        message = json.dumps([0, number, command, parameters]).encode()
        self._connection.sendall(b"%d:%s" % (len(message), message))
        _, answered, error, result = self._read()
        assert answered == number
        if error:
            raise Failed(f"{command}: {error['error']}: {error['message']}")
        return result

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            if not (digit := self._stream.read(1)):
                raise ConnectionError("Firefox is gone")
            length += digit
        return json.loads(self._stream.read(int(length[:-1])))


@contextlib.contextmanager
def firefox(preferences: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Firefox]:
    """A Firefox with a profile of its own, for the time of a `with` block.

    Args:
        preferences: Preferences beside `PREFERENCES`, by name.
    """
    with TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        lines = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});"
            for name, value in (PREFERENCES | dict(preferences)).items()
        ]
        (profile / "user.js").write_text("\n".join(lines))
        (profile / "chrome").mkdir()
        (profile / "chrome" / "userChrome.css").write_text(STYLE)
        process = subprocess.Popen(
            [program(), "--headless", "--no-remote", "--marionette", "--profile", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            window = Firefox(_connected(process, profile / "MarionetteActivePort"))
            try:
                yield window
            finally:
                window.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _connected(process: subprocess.Popen[bytes], port: Path) -> socket.socket:
    """A connection to a Firefox that starts."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"Firefox ended with {process.returncode}"
        with contextlib.suppress(OSError, ValueError):
            connection = socket.create_connection(("127.0.0.1", int(port.read_text())), 5)
            connection.settimeout(COMMAND_SECONDS)
            return connection
        time.sleep(0.1)
    raise AssertionError("Firefox did not start")
