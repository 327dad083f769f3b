"""axe finds nothing serious in any state of any page, however its reader has set it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from django.contrib.staticfiles.finders import find
from django.utils import timezone

from integrations.models import GarminConnectLogin, Gear
from integrations.sandbox.garmin import ALICE

from .desk import Desk
from .windows import Window

Step = GarminConnectLogin.Step
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
OF_COLOR = ("color-contrast", "link-in-text-block")
OVERFLOW = """(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth ? [] : [
  `${scrollWidth - clientWidth} px too wide: ` + [...document.querySelectorAll("main *, header *")]
    .filter((each) => each.getBoundingClientRect().right > clientWidth + 1)
    .slice(0, 3).map((each) => each.outerHTML.slice(0, 120)).join(" ")
])(document.documentElement).concat([...document.querySelectorAll("[data-provider] *")]
  .filter((each) => {
    const box = each.getBoundingClientRect();
    const card = each.closest("dialog, .card").getBoundingClientRect();
    const isOut = box.left < card.left - 1 || box.right > card.right + 1;
    return isOut && box.width > 1 && each.checkVisibility();
  }).slice(0, 3).map((each) => "out of its card: " + each.outerHTML.slice(0, 120)))"""

STATES: list[Any] = []
STATES_FOR_FIREFOX: list[Any] = []


def state(
    *, in_firefox: bool = False
) -> Callable[[Callable[[Desk], None]], Callable[[Desk], None]]:
    """What comes to Firefox, too, differs most from the rest."""

    def register(act: Callable[[Desk], None]) -> Callable[[Desk], None]:
        for states in [STATES] + [STATES_FOR_FIREFOX] * in_firefox:
            states.append(pytest.param(act, id=act.__name__.replace("_", " ")))
        return act

    return register


# --- What the settings page can look like: each card in each state --------------------------------


@state(in_firefox=True)
def nothing_linked(desk):
    desk.open()


@state()
def nothing_linked_where_each_brings_an_app(desk):
    desk.open(desk.other_site)


GEAR = [
    ("bike", "🚲💨 Blitz", "Ærø", "Øne", False),
    ("bike", "x" * 255, "", "", False),
    ("bike", "<b>Bold</b> & \"quoted\" 'bike'", "<i>", "</script>", False),
    ("shoes", "\u0646\u0639\u0627\u0644 \u202e\u0627\u0628", "Nikko", "W" * 255, False),
    ("shoes", "", "Asiks", "Nimble 26", True),
    ("other", "", "", "", False),
]


def add_gear(desk: Desk) -> None:
    now = timezone.now()
    Gear.objects.bulk_create(
        Gear(
            user=desk.alice,
            provider=provider,
            provider_gear_id=f"b{number}",
            kind=kind,
            name=name,
            brand=brand,
            model=model,
            distance=10 ** (number + 3),
            primary=number == 0,
            retired=retired,
            first_seen_at=now,
        )
        for provider in ("strava", "garminconnect")
        for number, (kind, name, brand, model, retired) in enumerate(GEAR)
    )
    desk.set(
        strava_sync_gear=True,
        strava_synced_at=now - timedelta(hours=3),
        garminconnect_sync_gear=True,
        garminconnect_synced_at=now - timedelta(days=3),
    )


@state(in_firefox=True)
def gear_of_all_kinds(desk):
    desk.link_strava()
    desk.link_garmin()
    add_gear(desk)
    desk.open()
    desk.window.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")


@state()
def a_permission_is_missing_and_a_sign_in_under_way(desk):
    desk.link_strava(strava_scope="read", strava_sync_gear=True)
    desk.sign_in_is_at(Step.RUNNING)
    desk.open()


def end_all_links(desk: Desk) -> None:
    now = timezone.now()
    desk.link_strava(strava_relink_required_at=now, strava_error="relink_required")
    desk.link_garmin(garminconnect_relink_required_at=now, garminconnect_error="relink_required")


@state()
def all_have_to_be_connected_again(desk):
    end_all_links(desk)
    add_gear(desk)
    desk.open()


@state()
def no_gear_could_be_synchronised(desk):
    desk.link_strava(strava_sync_error="provider_unavailable")
    desk.link_garmin(garminconnect_sync_error="provider_unavailable")
    desk.open()


@state()
def gear_is_being_synchronised_and_a_code_was_wrong(desk):
    desk.link_strava(strava_syncing_until=timezone.now() + timedelta(minutes=10))
    desk.sign_in_is_at(Step.MFA_REQUIRED, wrong_codes=1)
    desk.set(garminconnect_error="invalid_mfa_code")
    desk.open()


@state(in_firefox=True)
def the_app_is_not_accepted_and_a_code_is_needed(desk):
    desk.link_strava(strava_error="invalid_client", strava_failures=3)
    desk.sign_in_is_at(Step.MFA_REQUIRED)
    desk.open()


def link_all(desk: Desk) -> None:
    desk.link_strava()
    desk.link_garmin()
    for provider, scope in SCOPES.items():
        desk.link_other(provider, scope)


SCOPES = {
    "polar": "accesslink.read_all",
    "wahoo": "user_read,workouts_read,offline_data",
    "intervals": "ACTIVITY:READ",
}


@state(in_firefox=True)
def everything_is_connected(desk):
    link_all(desk)
    desk.open()


@state(in_firefox=True)
def every_state_of_the_common_card(desk):
    desk.link_other("polar", SCOPES["polar"], error="invalid_client", failures=3)
    desk.link_other("wahoo", SCOPES["wahoo"], relink_required_at=timezone.now())
    desk.link_other("intervals", ",", account_name="x" * 255)
    desk.open()
    desk.window.wait_for_element("#wahoo[data-status=relink_required]", seconds=5)


# --- With an error in the card --------------------------------------------------------------------


@state(in_firefox=True)
def an_error_in_a_form(desk):
    desk.open()
    desk.send("garminconnect", email="not-an-email", password="-")


@state()
def an_error_in_the_form_of_an_app(desk):
    desk.open(desk.other_site)
    desk.send("strava", client_id="10002", client_secret="")


@state()
def an_error_in_the_form_of_a_code(desk):
    desk.sign_in_is_at(Step.MFA_REQUIRED)
    desk.open()
    desk.send("garminconnect", code="abcdef")


@state()
def an_error_beside_a_link_that_works_and_a_wrong_password(desk):
    desk.link_strava()
    desk.set(garminconnect_error="invalid_credentials")
    desk.come_back(state="unknown", code="c0de", scope="read")


@state()
def an_error_beside_a_link_that_has_ended(desk):
    end_all_links(desk)
    desk.open()
    desk.send("garminconnect", email="not-an-email", password="-")


@state()
def an_error_in_the_common_card(desk):
    desk.link_other("polar", SCOPES["polar"], error="provider_unavailable", failures=1)
    desk.come_back("polar", state="unknown", code="c0de")
    desk.window.wait_for_element("#polar [role=alert]", seconds=5)


# --- Other pages ----------------------------------------------------------------------------------


@state()
def a_dialog_that_asks_once_more(desk):
    desk.link_strava()
    desk.open()
    desk.window.click('a[href*="/integrations/strava/disconnect/"]')
    desk.window.wait_for("document.querySelector('dialog')?.open", seconds=5)


@state()
def a_page_that_asks_once_more(desk):
    desk.link_strava()
    desk.window.open(f"{desk.site.url}/integrations/strava/disconnect/")
    desk.window.wait_for_element("form[action*='/disconnect/'], form:not([action])", seconds=5)


@state()
def a_login_that_failed(desk):
    desk.window.set_cookie(desk.site.url, "sessionid", "nobody")
    desk.window.open(f"{desk.site.url}/accounts/login/")
    desk.window.fill("[name=username]", "alice")
    desk.window.fill("[name=password]", "wrong")
    desk.window.press("form:has([name=username]) button")
    desk.window.wait_for_element("[role=alert]", seconds=5)


@state()
def a_password_that_was_not_changed(desk):
    desk.window.open(f"{desk.site.url}/accounts/password_change/")
    desk.let_anything_pass()
    for name in ("old_password", "new_password1", "new_password2"):
        desk.window.fill(f"[name={name}]", "wrong")
    desk.window.press("form:has([name=old_password]) button")
    desk.window.wait_for_element(".errorlist", seconds=5)


@state()
def a_link_to_a_new_password_that_is_too_old(desk):
    desk.window.open(f"{desk.site.url}/accounts/reset/MQ/?token=old")
    desk.window.wait_for_element("[href*=password_reset]", seconds=5)


@state()
def a_page_that_was_open_for_too_long(desk):
    desk.open()
    desk.window.js(
        "document.querySelectorAll('[name=csrfmiddlewaretoken]').forEach((each) => each.remove())"
    )
    desk.send("garminconnect", email=ALICE, password="-")


# --- What has to hold in each of them -------------------------------------------------------------


def problems_of(window: Window) -> dict[str, list[str]]:
    """What axe and a narrow window find, by how the reader has set the page."""
    found = {}

    def look(how: str, what: str) -> None:
        if problems := window.js(what):
            found[how] = problems

    window.run(AXE)
    look("light", serious())
    for how in ("dark", "forced_colors"):
        window.emulate(**{how: True})
        look(how, serious(runOnly=OF_COLOR))
    no_color = {rule: {"enabled": False} for rule in OF_COLOR}
    window.emulate(large_text=True)
    look("large text", serious(rules=no_color))
    window.emulate()
    window.js("document.documentElement.dir = 'rtl'")
    look("right to left", serious(rules=no_color))
    window.size(320, 640)
    look("right to left, 320 px", OVERFLOW)
    window.js("document.documentElement.dir = 'ltr'")
    look("320 px", OVERFLOW)
    window.emulate(large_text=True)
    look("320 px, large text", OVERFLOW)
    return found


def serious(**options: Any) -> str:
    """What asks axe for all that it calls serious or critical."""
    options["resultTypes"] = ["violations"]
    return f"""axe.run(document, {json.dumps(options)}).then(({{ violations }}) => violations
      .filter(({{ impact }}) => impact === "serious" || impact === "critical")
      .map(({{ id, nodes }}) => [id, ...nodes.slice(0, 3).map(({{ html }}) => html)].join(" ")))"""


@pytest.mark.parametrize("window", ["chromium"], indirect=True)
@pytest.mark.parametrize("state", STATES)
def test_nothing_serious_is_found(desk, state):
    desk.window.size(1024, 768)
    state(desk)
    desk.window.settle(0)
    assert problems_of(desk.window) == {}


@pytest.mark.parametrize("window", ["firefox"], indirect=True)
@pytest.mark.parametrize("state", STATES_FOR_FIREFOX)
def test_nothing_serious_is_found_in_firefox(desk, state):
    test_nothing_serious_is_found(desk, state)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("window", ["chromium"], indirect=True)
def test_nothing_serious_is_found_where_there_is_no_page(live_server, window):
    window.open(f"{live_server.url}/nowhere/")
    assert "404" in window.text("body")
    assert problems_of(window) == {}


def test_something_serious_would_be_found(window):
    """In each of the ways: or a page would seem fine because nobody had looked."""
    window.open(
        "data:text/html,<!doctype html><html lang=en><title>Bad</title><style>"
        "@media (prefers-color-scheme: light) { p { color: %23ddd; background: white } }"
        "@media (prefers-color-scheme: dark) { p { color: %23222; background: black } }"
        "@media (forced-colors: active) { p { forced-color-adjust: none; color: %23eee;"
        " background: white } }"
        "</style><main><h1>Bad</h1><p>Words<img src='data:,'><div style='width: 20rem'>Wide</div>"
        "<div class=card data-provider style='width: 5rem'><p style='width: 6rem'>Wide</div>"
    )
    found = problems_of(window)
    assert "image-alt" in str(found["light"])
    for how in ("light", "dark", "forced_colors"):
        assert "color-contrast" in str(found[how])
    assert "image-alt" in str(found["large text"])
    assert "image-alt" in str(found["right to left"])
    assert "too wide" in str(found["320 px"])
    assert "out of its card" in str(found["320 px"])


FOR_THOSE_WITHOUT = Path(str(find("integrations/icons/link.svg"))).read_text()
CARDS = ["strava", "garminconnect", "polar", "wahoo", "intervals"]
# By card, what its controls are called: what is for nobody's eyes belongs to the name.
NAMES = """Object.fromEntries([...document.querySelectorAll("[data-provider]")].map((card) => [
  card.dataset.provider,
  [...card.querySelectorAll("button, a, summary")].map((each) =>
    each.textContent.trim().replace(/\\s+/g, " "))
]))"""


@pytest.mark.parametrize("window", ["chromium"], indirect=True)
@pytest.mark.parametrize("is_connected", [True, False])
def test_no_control_is_called_as_one_of_another_card(desk, is_connected):
    if is_connected:
        link_all(desk)
    desk.open()
    names = desk.window.js(NAMES)
    assert list(names) == CARDS
    all_names = [name for of_card in names.values() for name in set(of_card)]
    assert len(all_names) >= len(CARDS)
    assert sorted(set(all_names)) == sorted(all_names)


@pytest.mark.parametrize("window", ["chromium"], indirect=True)
def test_each_provider_has_a_mark_of_its_own(desk):
    desk.open()
    marks = desk.window.js(
        "Promise.all([...document.querySelectorAll('.mark')].map((each) => fetch(getComputedStyle("
        "each, '::before').maskImage.slice(5, -2)).then((answer) => answer.text())))"
    )
    assert len(marks) == len(CARDS)
    assert all(mark.startswith("<svg") for mark in marks)
    assert len(set(marks)) == len(CARDS)
    assert FOR_THOSE_WITHOUT not in marks
