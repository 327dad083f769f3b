"""Both browsers are driven alike: what the tests of the page rest on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from .conftest import FIREFOX
from .firefox import Firefox
from .windows import DESKTOP, PHONE

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls(__name__),
]

PAGE = """<!doctype html><title>Form</title><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="style.css"><script src="script.js"></script>
<p id="words">Words</p><p class="tall">
<form method="post"><input name="text" value="old"><button>Send</button></form>
<p class="tall"><button id="below">Below</button><p id="above">Above all"""
STYLE = """
  #words { float: left; font-size: 1rem } .tall { height: 3000px }
  #above { position: fixed; inset: auto 0 0; margin: 0; height: 40px; background: silver }
  #below { position: fixed; inset: auto auto 5px 5px }"""
SCRIPT = "addEventListener('input', (event) => (window.typedByHand = event.isTrusted))"


@csrf_exempt
def form(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        time.sleep(0.3)  # as long as it takes somebody to see the old page for the new one
        return HttpResponse(f"<title>{request.POST['text']}</title>{request.COOKIES.get('who')}")
    return HttpResponse(PAGE)


urlpatterns = [
    path("", form),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
    path("style.css", lambda request: HttpResponse(STYLE, content_type="text/css")),
    path("script.js", lambda request: HttpResponse(SCRIPT, content_type="text/javascript")),
]


@pytest.fixture
def address(live_server):
    return f"{live_server.url}/"


def test_a_form_is_filled_in_and_sent_by_hand(window, address):
    window.open(address)
    window.fill("[name=text]", "typed é 😀")
    assert window.text("[name=text]") == "typed é 😀"
    assert window.js("window.typedByHand")
    assert window.js("document.hasFocus() && document.activeElement.name") == "text"
    window.key("Tab")
    assert window.text(":focus") == "Send"
    window.key("Shift+Tab")
    window.fill("[name=text]", "")
    window.fill("[name=text]", "Sent")

    window.press("form button")

    assert window.js("document.title") == "Sent"


def test_each_window_has_cookies_of_its_own(window, address):
    window.open(address)
    window.press("form button")
    assert window.text("body") == "None"
    window.set_cookie(address, "who", "alice")
    window.open(address)
    window.press("form button")
    assert window.text("body") == "alice"


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_a_window_is_as_large_as_it_should_be(window, address, size, tmp_path):
    window.size(*size)
    window.open(address)
    assert tuple(window.js("[innerWidth, innerHeight]")) == size
    window.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 1000


def test_a_page_looks_as_its_reader_has_set_it(window, address):
    def seen():
        return window.js(
            """["(prefers-color-scheme: dark)", "(forced-colors: active)",
                "(prefers-reduced-motion: reduce)"].map((query) => matchMedia(query).matches)
               .concat(document.getElementById("words").offsetHeight)"""
        )

    window.open(address)
    dark, forced, still, height = seen()
    assert (dark, forced, still) == (False, False, True)
    window.emulate(dark=True)
    assert seen() == [True, False, True, height]
    window.emulate(forced_colors=True)
    assert seen()[1:] == [True, True, height]
    window.emulate(large_text=True)
    assert seen()[:3] == [False, False, True]
    assert 1.8 < seen()[3] / height < 2.2
    window.emulate()
    assert seen() == [False, False, True, height]


def test_what_lies_below_something_else_is_not_clicked(window, address):
    window.open(address)
    with pytest.raises(AssertionError, match="Above all"):
        window.click("#below")
    with pytest.raises(AssertionError, match="is not there"):
        window.click("#nowhere")


def test_what_goes_wrong_in_the_page_is_told(window, address):
    window.open(address)
    with pytest.raises(AssertionError, match="not defined"):
        window.js("nothing.at.all")
    with pytest.raises(AssertionError, match="never came true"):
        window.wait_for("document.title === 'Sent'", seconds=0.2)
    assert window.complaints == []
    window.js("console.error('It is broken.')")
    assert "It is broken." in window.complaints[0]


@pytest.mark.skipif(not os.access(FIREFOX, os.X_OK), reason="no Firefox")
def test_firefox_goes_with_all_that_it_has_begun():
    firefox = Firefox(FIREFOX)
    firefox.window().open("about:blank")
    group, profile = firefox._process.pid, firefox._profile

    firefox.close()

    def alive(process: Path) -> bool:
        try:
            state, _parent, its_group = process.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            return False
        return int(its_group) == group and state != "Z"

    assert [each for each in Path("/proc").glob("[0-9]*/stat") if alive(each)] == []
    assert not profile.exists()
