"""Debian's Firefox, over WebDriver BiDi, straight through its websocket.

Playwright drives a Firefox of its own making only. Source: https://w3c.github.io/webdriver-bidi/
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import websocket

from .windows import Interrupted, Window

# No answer takes longer, a page's load included.
PATIENCE = 30.0

_PREFERENCES: dict[str, bool | int | str] = {
    # Whatever it wants from the internet, it meets a port that nobody listens at; loopback is
    # reached directly.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.allow_hijacking_localhost": False,
    "network.proxy.failover_direct": False,
    "network.dns.disablePrefetch": True,
    "network.prefetch-next": False,
    "network.trr.mode": 5,
    # And it is told not to want anything.
    "app.normandy.enabled": False,
    "app.shield.optoutstudies.enabled": False,
    "app.update.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.newtabpage.enabled": False,
    "browser.newtabpage.activity-stream.feeds.system.topstories": False,
    "browser.region.network.url": "",
    "browser.region.update.enabled": False,
    "browser.safebrowsing.blockedURIs.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "browser.topsites.contile.enabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.push.connection.enabled": False,
    "extensions.blocklist.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.server": "",
    "toolkit.telemetry.unified": False,
    # Nothing in front of the page, and nothing that moves.
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.startup.page": 0,
    "browser.translations.enable": False,
    "browser.zoom.siteSpecific": False,
    "datareporting.policy.firstRunURL": "",
    # To the page at once, not by way of what the browser believes to be where.
    "remote.events.async.enabled": False,
    "signon.rememberSignons": False,
    "ui.prefersReducedMotion": 1,
    "ui.useOverlayScrollbars": 1,  # as on a phone
}

# https://w3c.github.io/webdriver/#keyboard-actions
_KEYS = {
    "ArrowDown": "\ue015",
    "Backspace": "\ue003",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Shift": "\ue008",
    "Space": " ",
    "Tab": "\ue004",
}


class BidiError(Exception):
    """Firefox refused a command, or had nothing to carry it out on."""


class Firefox:
    """A Firefox that runs, headless, with a profile that is gone with it."""

    def __init__(self, executable: str) -> None:
        self._profile = Path(tempfile.mkdtemp(prefix="firefox-tests-"))
        self._number = 0
        self._windows: dict[str, FirefoxWindow] = {}
        self._socket: websocket.WebSocket | None = None
        (self._profile / "user.js").write_text(
            "".join(
                f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
                for name, value in _PREFERENCES.items()
            )
        )
        self._process = subprocess.Popen(
            [
                executable,
                "--headless",
                "--no-remote",
                "--profile",
                str(self._profile),
                "--remote-debugging-port",
                "0",
                # For what a person sets in the browser itself, such as larger text.
                "--remote-allow-system-access",
            ],
            # A home of its own: Firefox refuses to run as root in somebody else's.
            env={**os.environ, "HOME": str(self._profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that its children can be ended with it
        )
        try:
            self._socket = websocket.create_connection(
                f"ws://127.0.0.1:{self._port()}/session",
                timeout=PATIENCE,
                suppress_origin=True,  # it takes any for a page that should not be here
                http_no_proxy=["*"],
            )
            self.command("session.new", capabilities={})
            self.command("session.subscribe", events=["log.entryAdded"])
            (frame,) = self.command("browsingContext.getTree", **{"moz:scope": "chrome"})[
                "contexts"
            ]
            self._frame = frame["context"]
        except BaseException:
            self.close()
            raise

    def _port(self) -> int:
        """The port that it has chosen: it writes it down once it listens there."""
        told = self._profile / "WebDriverBiDiServer.json"
        give_up = time.monotonic() + 60
        while True:
            try:
                return int(json.loads(told.read_text())["ws_port"])
            except (FileNotFoundError, ValueError):
                assert self._process.poll() is None, "Firefox ended instead of starting"
                assert time.monotonic() < give_up, "Firefox does not listen"
                time.sleep(0.05)

    def command(self, method: str, **params: Any) -> Any:
        """Have one command carried out. Raises BidiError if it was not."""
        assert self._socket is not None
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            answer = json.loads(self._socket.recv())
            if answer.get("type") == "event":
                self._note(answer)
            elif answer.get("id") == self._number:
                if answer["type"] == "error":
                    raise BidiError(f"{answer['error']}: {answer['message']} ({method})")
                return answer["result"]
        raise BidiError(f"no answer to {method}")

    def _note(self, event: dict[str, Any]) -> None:
        params = event["params"]
        window = self._windows.get(params.get("source", {}).get("context"))
        if window is not None and params.get("level") in ("error", "warn"):
            window.complaints.append(str(params.get("text")))

    def set_in_browser(self, statement: str) -> None:
        """Carry out a statement of the browser's own, above the page; `tab` is the one shown."""
        answer = self.command(
            "script.evaluate",
            expression=f"{{ const tab = gBrowser.selectedBrowser.browsingContext; {statement} }}",
            target={"context": self._frame},
            awaitPromise=False,
        )
        if answer["type"] == "exception":
            raise BidiError(str(answer["exceptionDetails"]["text"]))

    def window(self) -> FirefoxWindow:
        """A new window, in front of all others."""
        user = self.command("browser.createUserContext")["userContext"]
        context = self.command("browsingContext.create", type="tab", userContext=user)["context"]
        self.command("browsingContext.activate", context=context)
        window = self._windows[context] = FirefoxWindow(self, user, context)
        return window

    def close(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()
        with contextlib.suppress(ProcessLookupError):
            # At once: nothing of it is kept, so there is nothing that it could put in order.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        shutil.rmtree(self._profile, ignore_errors=True)


class FirefoxWindow(Window):
    """A tab of Firefox's, with cookies of its own."""

    browser = "firefox"

    def __init__(self, firefox: Firefox, user: str, context: str) -> None:
        self.complaints = []
        self._firefox, self._user, self._context = firefox, user, context

    def _command(self, method: str, **params: Any) -> Any:
        return self._firefox.command(method, context=self._context, **params)

    def open(self, url: str) -> None:
        self._command("browsingContext.navigate", url=url, wait="complete")

    def size(self, width: int, height: int) -> None:
        self._command(
            "browsingContext.setViewport",
            viewport={"width": width, "height": height},
            devicePixelRatio=1,
        )
        # It answers before the page has got that size.
        self.wait_for(f"innerWidth === {width} && innerHeight === {height}")

    def set_cookie(self, url: str, name: str, value: str) -> None:
        host = url.partition("://")[2].partition("/")[0].rpartition(":")[0]
        self._firefox.command(
            "storage.setCookie",
            cookie={"name": name, "value": {"type": "string", "value": value}, "domain": host},
            partition={"type": "storageKey", "userContext": self._user},
        )

    def emulate(
        self, *, dark: bool = False, forced_colors: bool = False, large_text: bool = False
    ) -> None:
        self._firefox.set_in_browser(
            f"tab.prefersColorSchemeOverride = {'dark' if dark else 'light'!r};"
            f"tab.forcedColorsOverride = {'active' if forced_colors else 'none'!r};"
            f"tab.textZoom = {2 if large_text else 1};"
        )
        self.settle(0)

    def screenshot(self, path: Path | str) -> None:
        image = self._command("browsingContext.captureScreenshot")["data"]
        Path(path).write_bytes(base64.b64decode(image))

    def close(self) -> None:
        self._firefox.command("browser.removeUserContext", userContext=self._user)

    def key(self, name: str) -> None:
        held = [_KEYS[each] for each in name.split("+")]
        self._keys(
            [{"type": "keyDown", "value": each} for each in held]
            + [{"type": "keyUp", "value": each} for each in reversed(held)]
        )

    def _type(self, text: str) -> None:
        if len(text) >= 20:  # as if pasted, as in the other browser
            assert self.js(f"document.execCommand('insertText', false, {json.dumps(text)})")
            return
        self._keys(
            [{"type": kind, "value": each} for each in text for kind in ("keyDown", "keyUp")]
        )

    def _keys(self, actions: list[dict[str, str]]) -> None:
        self._command(
            "input.performActions", actions=[{"type": "key", "id": "keys", "actions": actions}]
        )

    def _click(self, x: float, y: float) -> None:
        self._command(
            "input.performActions",
            actions=[
                {
                    "type": "pointer",
                    "id": "mouse",
                    "actions": [
                        {"type": "pointerMove", "x": round(x), "y": round(y)},
                        {"type": "pointerDown", "button": 0},
                        {"type": "pointerUp", "button": 0},
                    ],
                }
            ],
        )

    def _evaluate(self, script: str) -> str:
        try:
            answer = self._command(
                "script.evaluate",
                expression=script,
                target={"context": self._context},
                awaitPromise=True,
            )
        except BidiError as exc:
            raise Interrupted(str(exc)) from exc
        if answer["type"] == "exception":
            raise AssertionError(answer["exceptionDetails"]["text"])
        return str(answer["result"]["value"])
