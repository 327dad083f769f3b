"""The page answers where the athlete looks, without a script as well."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from django.urls import reverse
from django.utils import timezone

from integrations import providers, services
from integrations.garminconnect.forms import GarminConnectLoginForm, GarminConnectMfaForm
from integrations.garminconnect.login import begin_login
from integrations.models import GarminConnectLogin, UsersIntegrations
from integrations.oauth.forms import ClientForm as StravaClientForm
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.garmin import MFA, PASSWORD
from integrations.sandbox.strava import ALICE, OTHER_CLIENT_SECRET

from .conftest import begin, come_back, row_of

pytestmark = pytest.mark.usefixtures("in_one_window")

PAGE = "/settings/integrations/"
STRAVA, GARMIN = "/integrations/strava/", "/integrations/garminconnect/"
PASTED = "0123456789abcdef0123456789abcdef01234567"  # as Strava's Client Secrets look


class Page(HTMLParser):
    """What of a page these tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.text, self.alerts, self.fields, self.title = text, [], {}, ""
        self._card = self._tag = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._tag = tag
        self._card = attrs.get("data-provider", self._card)
        if attrs.get("role") == "alert":
            self.alerts.append((self._card, attrs["id"]))
        if tag == "input" and attrs.get("type") != "hidden":
            self.fields[attrs["name"]] = attrs

    def handle_data(self, data):
        if self._tag == "title":
            self.title += data
            self._tag = None


def page_of(client):
    return Page(client.get(PAGE).content.decode())


FAILING = [
    # URL, what is sent, the card, the field to blame, what comes back
    (f"{STRAVA}connect/", {"client_id": "abc", "client_secret": "s"}, "client_id", "abc"),
    (f"{STRAVA}connect/", {"client_id": PASTED, "client_secret": "s"}, "client_id", None),
    (f"{STRAVA}connect/", {"client_id": "10002"}, "client_secret", "10002"),
    (f"{STRAVA}connect/", {"client_secret": "s"}, "client_id", None),
    (f"{STRAVA}connect/", {"client_id": "1", "client_secret": "två ord"}, "client_secret", "1"),
    (f"{STRAVA}connect/", {"client_id": "1", "client_secret": "s" * 300}, "client_secret", "1"),
    (f"{STRAVA}gear/sync/", {}, "", None),
    (f"{GARMIN}connect/", {"email": "not-an-email", "password": "x"}, "email", "not-an-email"),
    (f"{GARMIN}connect/", {"email": "a" * 257, "password": "x"}, "email", "a" * 257),
    (f"{GARMIN}connect/", {"email": "a@example.com", "password": ""}, "password", "a@example.com"),
    (f"{GARMIN}connect/", {"email": "a@example.com", "password": "x" * 257}, "password", None),
    (f"{GARMIN}mfa/", {"code": "123456"}, "", None),
    (f"{GARMIN}gear/sync/", {}, "", None),
]


@pytest.mark.parametrize(("url", "sent", "field", "back"), FAILING)
def test_a_failing_post_is_told_in_its_card_at_its_field(alice_client, db, url, sent, field, back):
    card = "strava" if url.startswith(STRAVA) else "garminconnect"

    response = alice_client.post(url, sent)
    assert (response.status_code, response["Location"]) == (302, PAGE)
    page = page_of(alice_client)

    assert page.alerts == [(card, f"{card}-error")]
    assert page.title.startswith("Error: ")
    invalid = {name for name, attrs in page.fields.items() if attrs.get("aria-invalid") == "true"}
    assert invalid == ({field} if field else set())
    for name in invalid:
        assert f"{card}-error" in page.fields[name]["aria-describedby"].split()
    values = {name: attrs.get("value") for name, attrs in page.fields.items()}
    if back is not None:
        assert back in (values.get("client_id"), values.get("email"))
    for secret in ("client_secret", "password", "code"):
        assert values.get(secret) is None
    assert PASTED not in page.text
    # Nothing is cut, or refused by the browser, without a word of ours.
    assert not re.search('maxlength|pattern=|type="email"', page.text)

    again = page_of(alice_client)  # it was told
    assert again.alerts == []
    assert not again.title.startswith("Error")


def test_a_fresh_error_replaces_a_stale_one(alice_client, garmin, strava):
    alice_client.post(f"{GARMIN}connect/", {"email": GARMIN_ALICE, "password": "wrong"})
    stale = page_of(alice_client)
    assert stale.alerts == [("garminconnect", "garminconnect-error")]
    assert "did not accept this e-mail and password" in stale.text
    assert stale.fields["email"]["value"] == GARMIN_ALICE  # although only a worker knew

    alice_client.post(f"{GARMIN}connect/", {"email": "not-an-email", "password": "x"})
    fresh = page_of(alice_client)
    assert len(fresh.alerts) == 1
    assert "not an e-mail address" in fresh.text

    come_back(alice_client, state=begin(alice_client)["state"], code=strava.grant(ALICE))
    done = page_of(alice_client)
    assert done.alerts == []  # after success there is none
    assert not done.title.startswith("Error")


def test_an_old_sign_in_hides_nothing_that_is_newer(alice, alice_client, garmin):
    alice_client.post(f"{GARMIN}connect/", {"email": GARMIN_ALICE, "password": PASSWORD})
    alice_client.post(f"{GARMIN}connect/", {"email": GARMIN_ALICE, "password": "wrong"})
    status = alice_client.get("/integrations/status/").json()["garminconnect"]
    assert (status["status"], status["error"]["code"]) == ("linked", "invalid_credentials")
    garmin.fail("gear_list", "500")
    alice_client.post(f"{GARMIN}gear/sync/")
    status = alice_client.get("/integrations/status/").json()["garminconnect"]
    assert status["error"]["code"] == "provider_unavailable"
    garmin.recover()
    services.refresh_link(alice.pk, "garminconnect")
    services.sync_garminconnect_gear(alice.pk)
    assert alice_client.get("/integrations/status/").json()["garminconnect"]["error"] is None


@pytest.mark.parametrize("step", ["queued", "mfa_required"])
def test_an_alert_is_there_where_its_field_is_not(alice, alice_client, db, step):
    begin_login(alice.pk, GARMIN_ALICE, "x")
    later = timezone.now() + timedelta(minutes=5)
    GarminConnectLogin.objects.update(step=step, step_until=later, mfa_until=later)
    alice_client.post(f"{GARMIN}connect/", {"email": "not-an-email", "password": "x"})
    page = page_of(alice_client)
    assert page.alerts == [("garminconnect", "garminconnect-error")]
    assert not [each for each in page.fields.values() if each.get("aria-invalid")]


def test_after_success_no_alert_comes_back(alice, alice_client, garmin, strava):
    alice_client.post(f"{GARMIN}connect/", {"email": GARMIN_ALICE, "password": "wrong"})
    alice_client.post(f"{STRAVA}gear/sync/")  # whose page nobody loads
    come_back(alice_client, state=begin(alice_client)["state"], code=strava.grant(ALICE))
    for _load in range(3):
        assert page_of(alice_client).alerts == []


def test_a_code_that_is_none_does_not_cost_the_address(alice_client, garmin):
    alice_client.post(f"{GARMIN}connect/", {"email": MFA, "password": PASSWORD})
    for code in ("abc", *["000000"] * 4):
        alice_client.post(f"{GARMIN}mfa/", {"code": code})
    page = page_of(alice_client)
    assert "wrong too many times" in page.text
    assert page.fields["email"]["value"] == MFA


def test_a_success_takes_back_a_failure_whose_page_was_never_loaded(alice_client, linked):
    alice_client.post(f"{STRAVA}connect/", {"client_id": "abc", "client_secret": "s"})
    kept = alice_client.cookies.pop("integrations_failure")
    assert kept["path"] == PAGE  # so browsers do not send it along with the next press
    response = alice_client.post(f"{STRAVA}preferences/", {})
    forgotten = response.cookies["integrations_failure"]
    assert (forgotten.value, forgotten["max-age"], forgotten["path"]) == ("", 0, PAGE)


def test_pressing_again_is_not_met_by_what_failed_before(alice, alice_client, expired, strava):
    strava.fail("token", "500", times=1)
    alice_client.post(f"{STRAVA}gear/sync/")
    assert len(page_of(alice_client).alerts) == 1
    later = timezone.now() + timedelta(minutes=1)
    UsersIntegrations.objects.update(strava_syncing_until=later)
    assert page_of(alice_client).alerts == []


def test_what_is_done_before_the_page_loads_is_told_as_done(alice, alice_client, linked, strava):
    def told(path, **sent):
        alice_client.post(f"{STRAVA}{path}", sent)
        page = alice_client.get(PAGE)
        return [str(message) for message in page.context["messages"]], page.context["alert"]

    assert told("gear/sync/") == (["Your gear is synced."], None)
    strava.fail("athlete", "500", times=1)
    messages, alert = told("preferences/", sync_gear="on")
    assert messages == []
    assert "could not be reached" in alert.message


def test_a_no_to_gear_is_an_answer(alice_client, linked):
    assert b"Do you want your bikes" in alice_client.get(PAGE).content
    alice_client.post(f"{STRAVA}preferences/", {})
    assert b"Do you want your bikes" not in alice_client.get(PAGE).content


def test_a_box_that_was_unchecked_comes_back_so(alice, alice_client, garmin):
    services.create_user_integrations(alice.pk)
    services.link_garminconnect_account(alice.pk, {"domain": "garmin.cn"}, {"di_token": "x"})
    assert "checked" in page_of(alice_client).fields["is_cn"]
    alice_client.post(f"{GARMIN}connect/", {"email": "not-an-email", "password": "x"})
    assert "checked" not in page_of(alice_client).fields["is_cn"]


def test_a_standing_notice_is_not_told_twice(alice, alice_client, linked, strava):
    strava.revoke_grant(ALICE)
    with pytest.raises(Exception, match="no longer accepts"):
        services.refresh_link(alice.pk, "strava")
    assert page_of(alice_client).alerts == []  # it stands, and nobody was refused anything

    alice_client.post(f"{STRAVA}gear/sync/")
    page = page_of(alice_client)
    assert page.alerts == [("strava", "strava-error")]
    assert page.text.count("no longer accepts this connection") == 1
    alice_client.post(f"{STRAVA}connect/", {"client_id": "abc", "client_secret": "s"})
    both = page_of(alice_client)
    assert len(both.alerts) == 1
    assert both.text.count("no longer accepts this connection") == 1


def test_a_missing_permission_is_told_once(alice_client, strava):
    state = begin(alice_client)["state"]
    come_back(alice_client, state=state, code=strava.grant(ALICE, scope="read"), scope="read")
    page = page_of(alice_client)
    assert page.alerts == []
    assert page.text.count("See your full profile, with your bikes and shoes") == 1
    assert page.text.count("bikes and shoes cannot be read") == 1

    response = alice_client.post(f"{STRAVA}preferences/", {"sync_gear": "on"}, follow=True)
    assert 'role="alert"' not in response.content.decode()  # it is saved, with a hint
    assert "as soon as Strava has your permission" in response.content.decode()


def test_what_went_wrong_for_one_is_not_told_to_another(alice, bob, client, db):
    client.force_login(alice)
    client.post(f"{GARMIN}connect/", {"email": "not-an-email", "password": "x"})
    client.force_login(bob)
    page = page_of(client)
    assert page.alerts == []
    assert "not-an-email" not in page.text


def test_what_travels_ahead_is_sealed_and_nobody_can_make_it_up(alice_client, db):
    alice_client.post(f"{GARMIN}connect/", {"email": "not-an-email", "password": "s3cret"})
    for name in ("integrations_failure", "integrations_typed"):
        cookie = alice_client.cookies[name]
        assert cookie["httponly"]
        assert cookie["path"] == PAGE
        assert "not-an-email" not in cookie.value
    for made_up in ("", "x", "ünfug", "gAAAAAB" + "x" * 100):
        alice_client.cookies["integrations_failure"] = made_up
        assert page_of(alice_client).alerts == []


def test_over_https_plain_http_cannot_make_it_up_either(alice_client, db):
    def post():
        return alice_client.post(
            f"{GARMIN}connect/", {"email": "odd", "password": "x"}, secure=True
        )

    post()
    cookies = alice_client.cookies
    names = {name for name in cookies if "integrations" in name}
    assert names == {"__Secure-integrations_failure", "__Secure-integrations_typed"}
    assert all(cookies[name]["secure"] for name in names)
    assert 'role="alert"' in alice_client.get(PAGE, secure=True).content.decode()
    assert 'role="alert"' not in alice_client.get(PAGE, secure=True).content.decode()

    post()
    for name in names:
        cookies[name.removeprefix("__Secure-")] = cookies.pop(name).value
    assert 'role="alert"' not in alice_client.get(PAGE, secure=True).content.decode()


@pytest.mark.parametrize("provider", ["strava", "garminconnect"])
def test_disconnecting_asks_once_more_without_a_script(alice, alice_client, linked, provider):
    services.link_garminconnect_account(alice.pk, None, {"di_token": "x"})
    url = reverse(f"integrations:{provider}_disconnect")
    assert f'href="{url}"' in alice_client.get(PAGE).content.decode()

    page = alice_client.get(url)
    assert page.status_code == 200
    assert b"Yes, disconnect" in page.content
    assert providers.get(provider).home.is_linked(row_of(alice))
    alice_client.post(url)
    assert not providers.get(provider).home.is_linked(row_of(alice))
    assert alice_client.get(url)["Location"] == PAGE
    again = alice_client.post(url, follow=True)  # what was wanted is so
    assert 'role="alert"' not in again.content.decode()


def test_buttons_of_the_two_cards_have_names_of_their_own(alice, alice_client, linked):
    services.link_garminconnect_account(alice.pk, None, {"di_token": "x"})
    text = alice_client.get(PAGE).content.decode()
    pressed = re.compile(r"<(?:button|summary|a class=\"button)[^>]*>(.*?)</(?:button|summary|a)>")
    strava, garmin = (
        {" ".join(re.sub(r"<[^>]+>", "", each).split()) for each in pressed.findall(card)}
        for card in text.split("data-provider=")[1:]
    )
    assert min(len(strava), len(garmin)) >= 6
    assert not strava & garmin


def test_after_linking_gear_is_asked_about_at_once(alice, alice_client, linked, strava):
    assert b"Do you want your bikes and shoes here, too?" in alice_client.get(PAGE).content
    alice_client.post(f"{STRAVA}preferences/", {"sync_gear": "on"})
    text = alice_client.get(PAGE).content.decode()
    assert "Do you want your bikes" not in text
    assert "4,217" in text


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("123456", "123456"),
        (" 123 456\n", "123456"),
        ("123\u00a0456", "123456"),
        ("123\u2011456", "123456"),
        ("123–456", "123456"),
        ("１２３４５６", "123456"),
        ("١٢٣٤٥٦", "123456"),
        ("\u200b123456\ufeff", "123456"),
        ("12345a", None),
        ("123", None),
        ("12345678901", None),
        ("", None),
        ("—", None),
    ],
)
def test_a_code_is_its_digits(typed, code):
    form = GarminConnectMfaForm({"code": typed})
    assert form.is_valid() == (code is not None)
    assert form.cleaned_data.get("code") == code


@pytest.mark.parametrize(
    ("typed", "client_id"),
    [
        ("10002", "10002"),
        (" 10002\r\n", "10002"),
        ("１０００２", "10002"),
        ("\u200b10002", "10002"),
        ("10002x", None),
        ("-1", None),
        ("1 0002", None),
        (PASTED, None),
        ("1" * 21, None),
    ],
)
def test_a_client_id_is_a_number(typed, client_id):
    form = StravaClientForm({"client_id": typed, "client_secret": f" {OTHER_CLIENT_SECRET}\n"})
    assert form.is_valid() == (client_id is not None)
    assert form.cleaned_data.get("client_id") == client_id
    if client_id:
        assert form.cleaned_data["client_secret"] == OTHER_CLIENT_SECRET


def test_an_address_is_trimmed_and_a_password_is_not():
    form = GarminConnectLoginForm({"email": " a@example.com\n", "password": " p ss "})
    assert form.is_valid()
    assert form.cleaned_data["email"] == "a@example.com"
    assert form.cleaned_data["password"] == " p ss "


def test_the_history_says_why_a_sign_in_failed(alice, alice_client, garmin):
    alice_client.post(f"{GARMIN}connect/", {"email": GARMIN_ALICE, "password": "wrong"})
    text = alice_client.get(PAGE).content.decode()
    assert "Connection history" in text
    assert "Wrong e-mail or password" in text
    assert re.search(r'<time datetime="[^"]+\+00:00" data-local>', text)


def test_the_login_form_names_its_error_at_its_fields(client, db):
    response = client.post("/accounts/login/", {"username": "nobody", "password": "wrong"})
    page = Page(response.content.decode())
    assert page.title.startswith("Error: ")
    for name in ("username", "password"):
        assert page.fields[name]["aria-invalid"] == "true"
        assert "login-error" in page.fields[name]["aria-describedby"].split()
    assert page.fields["username"]["value"] == "nobody"
