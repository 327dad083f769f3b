"""A window of a browser, driven in the same way whichever browser it is.

What differs is a handful of methods. The rest is written once, above them: what is clicked is
scrolled to and clicked by the mouse, what is typed comes from the keyboard.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser
from playwright.sync_api import Error as PlaywrightError

PHONE = (375, 667)
DESKTOP = (1440, 900)
#: Names of the keys that tests press, as both browsers are told them.
KEYS = ("ArrowDown", "Backspace", "Enter", "Escape", "Space", "Tab")


class Interrupted(Exception):
    """The page went away, or was not there yet, when it was asked something."""


class Window(ABC):
    """One window with cookies of its own. Selectors are CSS's; the first that matches counts.

    `complaints` is what the console has complained of.
    """

    browser: str
    complaints: list[str]

    @abstractmethod
    def open(self, url: str) -> None:
        """Load a page, and all that belongs to it."""

    @abstractmethod
    def size(self, width: int, height: int) -> None: ...

    @abstractmethod
    def set_cookie(self, url: str, name: str, value: str) -> None: ...

    @abstractmethod
    def emulate(
        self, *, dark: bool = False, forced_colors: bool = False, large_text: bool = False
    ) -> None:
        """Show the page that is loaded to somebody who has set their machine like this.

        Large text is text at 200 %, not the page's zoom. Nothing moves, whatever is chosen.
        """

    @abstractmethod
    def screenshot(self, path: Path | str) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _evaluate(self, script: str) -> str:
        """What a promise in the page comes to. Raises Interrupted if the page has gone."""

    @abstractmethod
    def _click(self, x: float, y: float) -> None: ...

    @abstractmethod
    def _type(self, text: str) -> None: ...

    @abstractmethod
    def key(self, name: str) -> None:
        """Press one of KEYS; with Shift held down for "Shift+Tab"."""

    def js(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it is, as far as JSON goes.

        Raises AssertionError with what was thrown, Interrupted if the page has gone.
        """
        answer = json.loads(
            self._evaluate(
                f"""(async () => {{
                  try {{ return JSON.stringify([(await ({expression})) ?? null]); }}
                  catch (error) {{ return JSON.stringify({{ error: String(error) }}); }}
                }})()"""
            )
        )
        assert isinstance(answer, list), f"{answer['error']} in: {expression}"
        return answer[0]

    def run(self, script: str) -> None:
        """Run a script in the page, such as a library; its policy has no say in that."""
        self._evaluate(f"{script};\n''")

    def wait_for(self, condition: str, seconds: float = 30) -> Any:
        """Wait until an expression is true, over any number of pages; returns what it is then."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                if found := self.js(condition):
                    return found
            except Interrupted as exc:
                found = f"no page, {exc}"
            assert time.monotonic() < give_up, f"it never came true: {condition} (now: {found})"
            time.sleep(0.04)

    def wait_for_element(self, selector: str, seconds: float = 30) -> None:
        self.wait_for(f"document.querySelector({json.dumps(selector)}) !== null", seconds)

    def wait_for_load(self) -> None:
        self.wait_for("document.readyState === 'complete'")

    def settle(self, milliseconds: int = 200) -> None:
        """Let the page do what it does by itself after it was loaded: scroll, move the focus."""
        frame = "new Promise(requestAnimationFrame)"
        pause = f"new Promise((done) => setTimeout(done, {milliseconds}))"
        self.js(f"{frame}.then(() => {frame}).then(() => {pause}).then(() => true)")

    def text(self, selector: str) -> str:
        """What an element says; of a field, what is in it."""
        found = self.js(
            f"((each) => each && [each.matches('input') ? each.value : each.innerText])"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        assert found, f"there is no {selector}"
        return str(found[0])

    def click(self, selector: str) -> None:
        """Click an element by the mouse, scrolled to as far as it takes. Waits for nothing."""
        place = self.js(
            f"""(async (target) => {{
              if (!target) return "is not there";
              target.scrollIntoView({{ block: "center", inline: "center", behavior: "instant" }});
              // Until it is painted there, or what is clicked is what was there before.
              for (const _ of "ab") await new Promise(requestAnimationFrame);
              const box = target.getBoundingClientRect();
              if (!box.width || !box.height) return "takes no room";
              const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
              const top = document.elementFromPoint(x, y);
              if (!target.contains(top)) return `lies below ${{top?.outerHTML.slice(0, 200)}}`;
              return [x, y];
            }})(document.querySelector({json.dumps(selector)}))"""
        )
        assert isinstance(place, list), f"{selector} {place}"
        self._click(*place)

    def fill(self, selector: str, text: str) -> None:
        """Click a field and type over what is in it."""
        self.click(selector)
        self.js("document.activeElement.select()")
        if text:
            self._type(text)
        elif self.text(selector):
            self.key("Backspace")

    def press(self, selector: str) -> None:
        """Click what leads to another page, and wait until that is loaded."""
        self.js("window.isLeft = true")
        self.click(selector)
        self.wait_for("!window.isLeft && document.readyState === 'complete'")


class ChromiumWindow(Window):
    """A window of Chromium's, through Playwright."""

    browser = "chromium"

    def __init__(self, chromium: Browser) -> None:
        self.complaints = []
        self._context = chromium.new_context(reduced_motion="reduce")
        self._context.set_default_timeout(30_000)
        self._page = self._context.new_page()
        self._page.on(
            "console",
            lambda each: each.type in ("error", "warning") and self.complaints.append(each.text),
        )
        self._page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._protocol = self._context.new_cdp_session(self._page)

    def open(self, url: str) -> None:
        self._page.goto(url, wait_until="load")

    def size(self, width: int, height: int) -> None:
        self._page.set_viewport_size({"width": width, "height": height})

    def set_cookie(self, url: str, name: str, value: str) -> None:
        self._context.add_cookies([{"name": name, "value": value, "url": url}])

    def emulate(
        self, *, dark: bool = False, forced_colors: bool = False, large_text: bool = False
    ) -> None:
        self._page.emulate_media(
            color_scheme="dark" if dark else "light",
            forced_colors="active" if forced_colors else "none",
            reduced_motion="reduce",
        )
        # The size that is set in the browser: media queries in em follow it, too.
        size = 32 if large_text else 16
        self._protocol.send("Page.setFontSizes", {"fontSizes": {"standard": size, "fixed": size}})
        self.settle(0)

    def screenshot(self, path: Path | str) -> None:
        self._page.screenshot(path=path)

    def close(self) -> None:
        self._context.close()

    def key(self, name: str) -> None:
        self._page.keyboard.press(name)

    def _evaluate(self, script: str) -> str:
        try:
            return str(self._page.evaluate(script))
        except PlaywrightError as exc:
            raise Interrupted(str(exc)) from exc

    def _click(self, x: float, y: float) -> None:
        self._page.mouse.click(x, y)

    def _type(self, text: str) -> None:
        if len(text) < 20:
            self._page.keyboard.type(text)
        else:
            self._page.keyboard.insert_text(text)  # as if pasted: the keys would take seconds
