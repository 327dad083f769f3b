"""What was wanted and did not happen is told where it was wanted, in view and with the focus.

In both browsers, on a phone and on a desktop, whoever noticed it: the site, a callback, a worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from integrations.models import GarminConnectAttempt, GarminConnectLogin
from integrations.sandbox.garmin import ALICE, CAPTCHA, LOCKED, MFA, MFA_CODE, PASSWORD, THROTTLED
from integrations.sandbox.polar import DANA
from integrations.sandbox.strava import OTHER_CLIENT_ID

from ..conftest import row_of
from ..processes import Athlete, wait_until
from .desk import Desk
from .windows import DESKTOP, PHONE, Window

MFA_REQUIRED = GarminConnectLogin.Step.MFA_REQUIRED
SECRET = "0123456789abcdef" * 2 + "01234567"  # as long as Strava's
WRONG_PASSWORD = "not the password"
FIELDS = ["client_id", "client_secret", "email", "password", "code"]
# Milliseconds: as it is first seen, and once whatever a browser does by itself (go to a fragment,
# back to where it was before a reload, put a form's values back) has been done.
MOMENTS = {PHONE: (200, 300), DESKTOP: (300,)}


@dataclass(frozen=True)
class Failure:
    """Something that fails: `provider` names the card that tells it.

    `keeps` is what has been typed and has to be there still. `field` is what has to be entered
    again and has the focus; without it, that is for the page to choose.
    """

    provider: str
    act: Callable[[Desk], None]
    keeps: dict[str, str] = field(default_factory=dict)
    field: str = ""
    sizes: tuple[tuple[int, int], ...] = (PHONE, DESKTOP)


FAILURES: list[Any] = []


def fails(provider: str, **more: Any) -> Callable[[Callable[[Desk], None]], Callable[[Desk], None]]:
    def register(act: Callable[[Desk], None]) -> Callable[[Desk], None]:
        sentence = act.__name__.replace("_", " ")
        FAILURES.append(pytest.param(Failure(provider, act, **more), id=sentence))
        return act

    return register


# --- Strava: the athlete's own app ----------------------------------------------------------------


@fails("strava", keeps={"client_id": "abc"})
def letters_for_a_client_id(desk):
    desk.open(desk.other_site)
    desk.send("strava", client_id="abc", client_secret=SECRET)


@fails("strava")
def the_client_secret_for_a_client_id(desk):
    desk.open(desk.other_site)
    desk.send("strava", client_id=SECRET, client_secret=SECRET)


@fails("strava", keeps={"client_id": OTHER_CLIENT_ID})
def a_client_id_alone(desk):
    desk.open(desk.other_site)
    desk.send("strava", client_id=OTHER_CLIENT_ID, client_secret="")


# --- Strava: from the button to the callback ------------------------------------------------------


def press_too_often(desk: Desk, path: str, per: int) -> None:
    """Until the site refuses it; `per` seconds are counted together, and are not about to end."""
    if per - time.time() % per < 8:
        time.sleep(per - time.time() % per)
    athlete = Athlete(desk.site, desk.alice)
    wait_until(lambda: athlete.post(path).status_code == 429, interval=0)


@fails("strava")
def connecting_too_often(desk):
    desk.open()
    press_too_often(desk, "/integrations/strava/connect/", 60)
    desk.press("strava", "connect")


@fails("strava")
def saying_no_at_strava(desk):
    desk.go_to_strava()
    desk.window.press('[name=decision][value="cancel"]')


@fails("strava")
def a_state_that_nobody_has_minted(desk):
    desk.come_back(state="unknown", code="c0de", scope="read")


@fails("strava")
def a_code_that_strava_refuses(desk):
    desk.go_to_strava()
    desk.come_back(state=row_of(desk.alice).strava_state, code="refused", scope="read")


@fails("strava")
def strava_is_down_when_the_code_is_exchanged(desk):
    desk.strava.fail("token", "502_html")
    desk.go_to_strava()
    desk.window.press('[name=decision][value="authorize"]')
    desk.strava.reset()


@fails("strava")
def a_link_that_works_and_a_new_one_that_does_not(desk):
    desk.link_strava()
    desk.come_back(state="unknown", code="c0de", scope="read")


# --- The others, whose card is the common one -----------------------------------------------------


@fails("polar")
def saying_no_at_polar(desk):
    desk.go_to("polar")
    desk.decide("cancel")


@fails("polar", sizes=(PHONE,))
def polar_wants_its_terms_accepted_first(desk):
    desk.go_to("polar")
    desk.window.js(f"document.querySelector('[name=athlete_id]').value = '{DANA}'")
    desk.decide("authorize")


@fails("wahoo", sizes=(PHONE,))
def wahoo_is_down_when_the_code_is_exchanged(desk):
    desk.providers["wahoo"].fail("token", "502_html")
    desk.go_to("wahoo")
    desk.decide("authorize")
    desk.providers["wahoo"].reset()


@fails("wahoo", sizes=(PHONE,))
def a_link_to_wahoo_that_has_ended_and_a_new_one_that_does_not_work(desk):
    desk.link_other("wahoo", "user_read", relink_required_at=timezone.now())
    desk.come_back("wahoo", state="unknown", code="c0de")


@fails("intervals", sizes=(PHONE,))
def saying_no_at_intervals_which_forgets_the_state(desk):
    desk.go_to("intervals")
    desk.decide("cancel")


@fails("intervals", sizes=(PHONE,))
def a_link_to_intervals_that_works_and_a_new_one_that_does_not(desk):
    desk.link_other("intervals", "ACTIVITY:READ")
    desk.come_back("intervals", state="unknown", code="c0de")


# --- Gear -----------------------------------------------------------------------------------------


@fails("strava")
def synchronising_by_a_link_that_has_ended_meanwhile(desk):
    desk.link_strava()
    desk.open()
    desk.set(strava_relink_required_at=timezone.now(), strava_error="relink_required")
    desk.press("strava", "gear/sync")


@fails("strava")
def synchronising_without_a_permission_that_was_there_before(desk):
    desk.link_strava()
    desk.open()
    desk.set(strava_scope="read")
    desk.press("strava", "gear/sync")


@fails("strava")
def synchronising_too_often(desk):
    desk.link_strava()
    desk.open()
    desk.set(strava_syncing_until=timezone.now() + timedelta(minutes=5))  # so that none begins
    press_too_often(desk, "/integrations/strava/gear/sync/", 15 * 60)
    desk.set(strava_syncing_until=None)
    desk.press("strava", "gear/sync")


@fails("garminconnect")
def synchronising_by_a_session_that_has_ended_meanwhile(desk):
    desk.link_garmin()
    desk.open()
    desk.set(garminconnect_relink_required_at=timezone.now(), garminconnect_error="relink_required")
    desk.press("garminconnect", "gear/sync")


# --- Garmin: e-mail and password ------------------------------------------------------------------


@fails("garminconnect", keeps={"email": "not-an-email"})
def an_email_address_that_is_none(desk):
    desk.open()
    desk.send("garminconnect", email="not-an-email", password=WRONG_PASSWORD)


LONG_EMAIL = f"{'a' * 245}@example.com"


@fails("garminconnect", keeps={"email": LONG_EMAIL})
def an_email_address_that_is_too_long(desk):
    desk.open()
    desk.send("garminconnect", email=LONG_EMAIL, password=WRONG_PASSWORD)


@fails("garminconnect", keeps={"email": ALICE})
def no_password(desk):
    desk.open()
    desk.send("garminconnect", email=ALICE, password="")


@fails("garminconnect", keeps={"email": ALICE})
def a_sixth_sign_in_within_an_hour(desk):
    GarminConnectAttempt.objects.bulk_create(
        GarminConnectAttempt(user=desk.alice, email_hash="", at=timezone.now()) for _ in range(5)
    )
    desk.sign_in_to_garmin(ALICE, WRONG_PASSWORD)


@fails("garminconnect")
def a_sign_in_beside_one_that_is_under_way(desk):
    desk.open()
    desk.sign_in_is_at(GarminConnectLogin.Step.RUNNING)
    desk.send("garminconnect", email=ALICE, password=WRONG_PASSWORD)


@fails("garminconnect", keeps={"email": "not-an-email"})
def an_email_address_that_is_none_for_a_session_that_has_ended(desk):
    desk.link_garmin(
        garminconnect_relink_required_at=timezone.now(), garminconnect_error="relink_required"
    )
    desk.open()
    desk.send("garminconnect", email="not-an-email", password=WRONG_PASSWORD)


@fails("garminconnect", keeps={"email": ALICE})
def a_password_that_garmin_does_not_accept(desk):
    desk.sign_in_to_garmin(ALICE, WRONG_PASSWORD)
    desk.wait_for_alert()


# What only the words differ in of what a worker has to tell is looked at where it is narrow.


@fails("garminconnect", keeps={"email": THROTTLED}, sizes=(PHONE,))
def garmin_refuses_sign_ins_for_a_while(desk):
    desk.sign_in_to_garmin(THROTTLED)
    desk.wait_for_alert()


@fails("garminconnect", keeps={"email": LOCKED}, sizes=(PHONE,))
def garmin_has_locked_the_account(desk):
    desk.sign_in_to_garmin(LOCKED)
    desk.wait_for_alert()


@fails("garminconnect", keeps={"email": CAPTCHA}, sizes=(PHONE,))
def garmin_wants_to_see_a_person(desk):
    desk.sign_in_to_garmin(CAPTCHA)
    desk.wait_for_alert()


# --- Garmin: the code -----------------------------------------------------------------------------


@fails("garminconnect", field="code")
def letters_for_a_code(desk):
    desk.sign_in_is_at(MFA_REQUIRED)
    desk.open()
    desk.send("garminconnect", code="abcdef")


@fails("garminconnect", field="code")
def no_code(desk):
    desk.sign_in_is_at(MFA_REQUIRED)
    desk.open()
    desk.send("garminconnect", code="")


@fails("garminconnect")
def a_code_after_its_sign_in_has_gone(desk):
    desk.sign_in_is_at(MFA_REQUIRED)
    desk.open()
    GarminConnectLogin.objects.all().delete()
    desk.send("garminconnect", code=MFA_CODE)


@fails("garminconnect", field="code")
def a_code_that_garmin_does_not_accept(desk):
    desk.sign_in_to_garmin(MFA)
    desk.wait_for_status("garminconnect", "mfa_required")
    desk.send("garminconnect", code="999999")
    desk.wait_for_alert()


@fails("garminconnect", sizes=(PHONE,))
def the_last_code_that_garmin_does_not_accept(desk):
    desk.sign_in_to_garmin(MFA)
    desk.wait_for_status("garminconnect", "mfa_required")
    GarminConnectLogin.objects.update(wrong_codes=3)
    desk.send("garminconnect", code="999999")
    desk.wait_for_alert()


@fails("garminconnect", sizes=(PHONE,))
def a_code_that_comes_too_late_for_garmin(desk):
    desk.sign_in_to_garmin(MFA)
    desk.wait_for_status("garminconnect", "mfa_required")
    desk.garmin.end_mfa(MFA)
    desk.send("garminconnect", code=MFA_CODE)
    desk.wait_for_alert()


# --- What has to hold after each of them ----------------------------------------------------------

LOOK = """(() => {
  const alerts = [...document.querySelectorAll("[role=alert]")]
    .filter((each) => each.checkVisibility());
  const alert = alerts[0];
  const inView = (element) => {
    const box = element.getBoundingClientRect();
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return box.width > 0 && box.height > 0 && box.top >= 0 && box.left >= 0
      && box.bottom <= innerHeight && box.right <= innerWidth && element.contains(top);
  };
  const active = document.activeElement;
  const descriptions = (active.getAttribute("aria-describedby") ?? "").split(/\\s+/).map(
    (id) => id && document.getElementById(id));
  const said = [...(alert?.querySelectorAll("p, li") ?? [])]
    .map((each) => each.innerText.trim()).sort((one, other) => other.length - one.length)[0]
    ?? alert?.innerText.trim() ?? "";
  return {
    title: document.title,
    alerts: alerts.map((each) => each.closest("[data-provider]")?.dataset.provider ?? "no card"),
    said,
    times: said ? document.body.innerText.split(said).length - 1 : 0,
    alertInView: Boolean(alert) && inView(alert),
    focus: !alert ? "no alert" : alert.contains(active) ? "alert"
      : active.getAttribute("aria-invalid") === "true"
        && descriptions.some((each) => each && alert.contains(each)) ? active.name
      : active.outerHTML.slice(0, 200),
    focusInView: inView(active),
    secrets: [...document.querySelectorAll("input[type=password], [name=client_secret]")]
      .map((each) => each.value).filter(Boolean),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    html: document.documentElement.outerHTML,
  };
})()"""


def check(window: Window, failure: Failure, when: str) -> None:
    found = window.js(LOOK)
    html = found.pop("html")
    told = f"{when}: {json.dumps(found, indent=2, ensure_ascii=False)}"
    assert found["alerts"] == [failure.provider], told
    assert found["said"], told
    assert found["times"] == 1, told
    assert found["alertInView"], told
    assert found["focus"] in ([failure.field] if failure.field else ["alert", *FIELDS]), told
    assert found["focusInView"], told
    assert found["title"].startswith("Error: "), told
    assert found["overflow"] <= 0, told
    assert found["secrets"] == [], told
    assert WRONG_PASSWORD not in html
    assert PASSWORD not in html
    for name, value in failure.keeps.items():
        kept = window.text(f'[data-provider="{failure.provider}"] [name={name}]')
        assert kept == value, told


@pytest.mark.parametrize("failure", FAILURES)
def test_what_went_wrong_is_told_where_it_was_wanted(desk, failure):
    for size in failure.sizes:
        desk.start_over()
        desk.window.size(*size)
        failure.act(desk)
        for moment in MOMENTS[size]:
            desk.window.settle(moment)
            check(desk.window, failure, f"{size[0]} × {size[1]}, {moment} ms later")
    assert desk.window.complaints == []


def no_error(window: Window) -> bool:
    return bool(
        window.js("!document.querySelector('[role=alert]') && !/error/i.test(document.title)")
    )


def test_a_client_id_with_spaces_around_it_is_a_client_id(desk):
    desk.open(desk.other_site)
    desk.send("strava", client_id=f" {OTHER_CLIENT_ID} ", client_secret=SECRET)
    desk.window.wait_for_element("[name=decision]")
    assert f"client_id={OTHER_CLIENT_ID}&" in desk.window.js("location.search")


def test_an_error_is_over_once_it_has_worked(desk):
    desk.come_back(state="unknown", code="c0de", scope="read")
    desk.window.wait_for_element("[role=alert]")

    desk.go_to_strava()
    desk.window.press('[name=decision][value="authorize"]')

    desk.wait_for_status("strava", "linked")
    desk.window.settle()
    assert no_error(desk.window)
    assert desk.window.complaints == []


def test_an_error_is_told_once_and_not_again_by_a_reload(desk):
    desk.come_back(state="unknown", code="c0de", scope="read")
    desk.window.wait_for_element("[role=alert]")
    desk.open()
    desk.window.settle()
    assert no_error(desk.window)


def test_the_code_is_asked_for_by_itself(desk):
    desk.window.size(*PHONE)
    desk.sign_in_to_garmin(MFA)
    desk.wait_for_status("garminconnect", "mfa_required")
    desk.window.wait_for("document.activeElement.name === 'code'", seconds=5)
    desk.window.settle()

    assert desk.window.js("document.activeElement.name") == "code"
    assert desk.window.js(
        "((box) => box.top >= 0 && box.bottom <= innerHeight)"
        "(document.activeElement.getBoundingClientRect())"
    )
    assert "code" in desk.window.js("document.title").lower()
    # Of a page that is new, the title is read out; of one that has reloaded itself, what changes.
    desk.window.wait_for(
        "performance.getEntriesByType('navigation')[0].type !== 'reload'"
        " || [...document.querySelectorAll('[role=status]')]"
        ".some((each) => /code/i.test(each.textContent))"
    )
    assert no_error(desk.window)

    for key in MFA_CODE:
        desk.window._type(key)  # it need not be looked for
    desk.window.key("Enter")
    desk.wait_for_status("garminconnect", "linked")
    desk.window.settle()
    assert no_error(desk.window)
