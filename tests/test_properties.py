"""Whatever comes in: no crash, no link, and no word to a provider without the right state.

Hypothesis makes up what nobody would think of. The same examples each time (`derandomize`), so
that a run that is green stays green; `HYPOTHESIS_PROFILE=search` looks for new ones.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import unicodedata
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import quote, quote_from_bytes

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from integrations import services
from integrations.exceptions import InvalidProviderReply, ScopeMissing, SecretUnreadable
from integrations.fields import EncryptedJSONField, EncryptedTextField, Sealed, keep_sealed
from integrations.garminconnect.client import token_expiry
from integrations.garminconnect.gear import fetch_gear
from integrations.gear import GearList, clean_text
from integrations.models import (
    GarminConnectAttempt,
    GarminConnectLogin,
    LinkStatus,
    UsersIntegrations,
)
from integrations.models.integrations import STRAVA
from integrations.oauth.provider import split_scope
from integrations.sandbox.strava import ALICE
from integrations.strava.client import StravaProfile, StravaTokens
from integrations.strava.gear import read_gear
from integrations.strava.webhook import MAX_EVENT

from .conftest import begin, come_back, row_of
from .test_strava_webhook import event, send

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    # The fixtures are there for all examples of a test: each leaves them as it found them.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "search", settings.get_profile("ci"), derandomize=False, max_examples=3000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
NOW = timezone.now()
PURE = settings(max_examples=120 if settings.default.derandomize else 20_000)


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    """What is asked here is not how often."""
    monkeypatch.setattr("integrations.views.throttle", lambda *args: None)
    monkeypatch.setattr("axes.handlers.proxy.settings.AXES_ENABLED", False)


# --- What may come in ---------------------------------------------------------------------------

NASTY = st.sampled_from(
    ["", "\0", "a\0b", " ", "\r\n", "%00", "%", "null", "None", "'; --", "<b>", "x" * 20_000,
     "\u202e", "\ufeff", "\U0001f6b4", "e\u0301" * 300, "\x7f", "\x85", "１２３４"]
)  # fmt: skip
ANYTHING = st.one_of(NASTY, st.text(max_size=40))
# Bytes in a query, percent-encoded or bare: not UTF-8, overlong, a surrogate's three bytes.
RAW = st.one_of(
    st.binary(max_size=30).map(quote_from_bytes),
    st.sampled_from(["%ED%A0%80", "%C0%80", "%FF", "%F0%9F%9A", "+", "a=b", "%2", "%zz"]),
    ANYTHING.map(lambda text: quote(text, safe="")),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["false", "False", "athlete", "update", ALICE, str(ALICE), float(ALICE)]),
)
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
# JSON that comes back as it went in.
EXACT_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(min_value=-(10**300), max_value=10**300),
        st.floats(allow_nan=False),
        st.text(alphabet=st.characters(), max_size=20),  # lone surrogates, too
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=15,
)


def urlencoded(fields):
    return "&".join(f"{quote(name, safe='')}={value}" for name, value in fields)


# --- The callback -------------------------------------------------------------------------------

CALLBACK = "/integrations/strava/callback/"
NAMES = st.sampled_from(["state", "code", "scope", "error", "state[]", "State", "", "\0"])


@pytest.fixture
def state(alice_client, strava):
    return begin(alice_client)["state"]


def links():
    return UsersIntegrations.objects.filter(strava_token__isnull=False).count()


@given(fields=st.lists(st.tuples(NAMES, RAW), max_size=8))
@example(fields=[("state", "a"), ("state", "a")])
@example(fields=[(f"p{number}", "1") for number in range(2000)])
def test_no_query_without_the_state_links_or_asks(alice, alice_client, strava, state, fields):
    response = alice_client.get(f"{CALLBACK}?{urlencoded(fields)}")

    assert response.status_code in (302, 400)
    assert not strava.calls
    assert links() == 0
    assert row_of(alice).strava_state == state  # nobody spends it by guessing


@given(query=st.one_of(st.text(max_size=60), st.binary(max_size=60)))
@example(query=b"state=\xed\xa0\x80")
@example(query="&&&===;;;???" * 5000)
def test_no_raw_query_string_is_a_crash(alice, alice_client, strava, state, query):
    raw = query.encode("utf-8", "replace") if isinstance(query, str) else query
    # What a server hands on: the bytes as they came, as Latin-1.
    response = alice_client.get(CALLBACK, QUERY_STRING=raw.decode("latin-1"))

    assert response.status_code in (302, 400)
    assert not strava.calls
    assert row_of(alice).strava_state == state


@given(
    change=st.one_of(
        st.integers(min_value=0, max_value=42).map(lambda cut: lambda s: s[:cut]),
        st.characters(codec="utf-8").map(lambda char: lambda s: s + char),
        st.characters(codec="utf-8").map(lambda char: lambda s: char + s),
        st.just(str.upper),
        st.just(str.swapcase),
        st.integers(min_value=0, max_value=42).map(
            lambda at: lambda s: s[:at] + ("A" if s[at] != "A" else "B") + s[at + 1 :]
        ),
    )
)
def test_a_state_that_is_nearly_right_is_wrong(alice, alice_client, strava, state, change):
    guess = change(state)
    if guess.strip() == state:
        return  # forms strip

    come_back(alice_client, state=guess, code=strava.grant(ALICE), scope="read")

    assert not strava.calls
    assert links() == 0
    assert row_of(alice).strava_state == state


@given(code=ANYTHING, scope=ANYTHING, error=st.one_of(st.just(""), ANYTHING))
def test_the_right_state_with_garbage_beside_it_links_nothing(
    alice, alice_client, strava, code, scope, error
):
    state = begin(alice_client)["state"]
    before = strava.calls["token"]

    response = come_back(alice_client, state=state, code=code, scope=scope, error=error)

    assert response.status_code == 302
    assert links() == 0
    assert strava.calls["token"] - before <= 1
    if error.strip() or not code.strip():
        assert strava.calls["token"] == before


@given(guess=st.one_of(ANYTHING, st.text(alphabet=st.characters(), max_size=10)))
@example(guess="\ud800")
def test_no_guess_finds_a_row(alice, strava, state, guess):
    assert services.get_user_integrations_by_strava_state(guess) is None
    assert services.get_user_integrations_by_strava_state(state) == row_of(alice)


@given(scope=st.text(max_size=60))
@example(scope="read,,read profile:read_all, ")
@example(scope="profile:read_all,activity:write,read")
def test_what_was_granted_is_stored_as_it_is_read_and_nothing_else(
    alice, alice_client, strava, scope
):
    state = begin(alice_client)["state"]

    come_back(alice_client, state=state, code=strava.grant(ALICE), scope=scope)

    row = row_of(alice)
    if row.strava_status == LinkStatus.LINKED:
        asked_for = [each for each in split_scope(scope) if each in ("read", "profile:read_all")]
        assert [each for each in STRAVA.scopes(row) if each != "profile:read"] == asked_for
        assert alice_client.get(reverse("integrations:settings")).status_code == 200
    else:
        assert "\0" in scope  # all that a form refuses of so short a text
    services.unlink_strava_account(alice.pk)


# --- The webhook --------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Whom a task would ask Strava about."""
    found = []
    monkeypatch.setattr(
        "integrations.strava.push.confirm_revocation",
        lambda user_id, **more: found.append(user_id) or "alive",
    )
    return found


def is_revocation(body):
    """A revocation of Alice's, in the words of Strava's documentation."""
    return (
        isinstance(body, dict)
        and body.get("object_type") == "athlete"
        and isinstance(body.get("updates"), dict)
        and str(body["updates"].get("authorized")).lower() == "false"
        and type(body.get("owner_id")) in (int, float, str)
        and str(body["owner_id"]).removesuffix(".0") == str(ALICE)
    )


EVENTS = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "object_type": st.one_of(st.just("athlete"), LEAVES),
            "aspect_type": LEAVES,
            "owner_id": st.one_of(st.just(ALICE), LEAVES, JSON_VALUES),
            "object_id": LEAVES,
            "updates": st.one_of(
                st.just({"authorized": "false"}),
                JSON_VALUES,
                st.fixed_dictionaries({"authorized": JSON_VALUES}),
            ),
        },
    ),
)


@given(body=EVENTS)
@example(body=event())
@example(body=event(updates={"authorized": False}))
@example(body=event(owner_id=[ALICE]))
@example(body=event(owner_id=str(ALICE)))
@example(body=event(owner_id=True))
def test_no_event_but_a_revocation_asks_anything(alice, client, linked, strava, asked, body):
    UsersIntegrations.objects.update(strava_checks_until=None)
    asked.clear()
    payload = json.dumps(body).encode()

    response = send(client, payload)

    assert response.status_code == (200 if len(payload) <= MAX_EVENT else 413)
    assert asked == ([alice.pk] if is_revocation(body) else [])
    assert links() == 1
    assert not strava.calls


@given(payload=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode())))
@example(payload=b"[" * 16_000)
@example(payload=b'{"a":' * 3000)
@example(payload=b'{"owner_id":' + b"9" * 5000 + b"}")
@example(
    payload=json.dumps(event()).replace('"false"', "[" * 7900 + "]" * 7900).encode()
)  # as deep as fits
@example(payload=b"\xff\xfe{\x00}\x00")
def test_no_bytes_are_a_crash(client, linked, strava, asked, payload):
    assert send(client, payload).status_code in (200, 400, 413)
    assert asked == []
    assert links() == 1


@pytest.mark.parametrize("refresh_token", ["kept", "missing"])
def test_a_forged_event_ends_no_link_that_strava_has_not_ended(
    alice, client, linked, strava, refresh_token
):
    """A site may store a link without a refresh token; its access token is good for hours."""
    if refresh_token == "missing":
        UsersIntegrations.objects.update(strava_refresh_token=None)

    assert send(client, event()).status_code == 200

    assert row_of(alice).strava_token == linked.strava_token
    assert strava.is_alive(row_of(alice).strava_token)


@given(length=st.one_of(st.text(alphabet="0123456789 +-_x١", max_size=6), st.integers().map(str)))
def test_no_content_length_is_a_crash(client, linked, strava, asked, length):
    # Enough for whatever length is claimed: a test client would mind reading past the end.
    body = b"{}" + b" " * (MAX_EVENT + 1)
    response = client.generic("POST", "/integrations/strava/webhook/", body, CONTENT_LENGTH=length)
    assert response.status_code in (200, 400, 413)
    assert asked == []


@given(query=st.lists(st.tuples(st.sampled_from(["hub.mode", "hub.verify_token"]), RAW)))
def test_no_handshake_without_the_token_is_answered(client, db, settings, query):
    settings.STRAVA_WEBHOOK_VERIFY_TOKEN = "the-right-one"
    fields = [*query, ("hub.challenge", "c"), ("hub.mode", "subscribe")]
    assert client.get(f"/integrations/strava/webhook/?{urlencoded(fields)}").status_code == 403


# --- Forms --------------------------------------------------------------------------------------

FORMS = {
    "integrations:strava_connect": ["client_id", "client_secret"],
    "integrations:garminconnect_connect": ["email", "password", "is_cn"],
    "integrations:garminconnect_mfa": ["code"],
    "integrations:strava_preferences": ["sync_gear"],
    "integrations:garminconnect_preferences": ["sync_gear"],
    "login": ["username", "password", "next"],
}


@pytest.fixture
def no_worker(settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}


def bodies(names):
    fields = st.lists(
        st.tuples(st.sampled_from([*names, "csrfmiddlewaretoken", "", "\0"]), RAW), max_size=6
    )
    return st.one_of(fields.map(lambda fields: urlencoded(fields).encode()), st.binary(max_size=60))


CONTENT_TYPES = st.sampled_from(
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-7",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/json",
        "text/plain; charset=bogus",
        "",
    ]
)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_no_form_is_a_crash_or_a_link(name, alice_client, client, strava, no_worker, data):
    who = Client() if name == "login" else alice_client
    body = data.draw(bodies(FORMS[name]))
    content_type = data.draw(CONTENT_TYPES)

    response = who.generic("POST", reverse(name), body, content_type=content_type)

    assert response.status_code < 500
    assert not strava.calls
    assert links() == 0
    assert alice_client.get(reverse("integrations:settings")).status_code == 200
    GarminConnectLogin.objects.all().delete()


@pytest.mark.parametrize("name", FORMS)
@given(values=st.lists(ANYTHING, min_size=3, max_size=3))
def test_no_value_of_a_form_is_a_crash(name, alice_client, strava, no_worker, values):
    who = Client() if name == "login" else alice_client

    response = who.post(reverse(name), dict(zip(FORMS[name], values, strict=False)))

    assert response.status_code in (200, 302)
    assert not strava.calls
    assert links() == 0
    GarminConnectLogin.objects.all().delete()


@given(password=st.text(min_size=1, max_size=256))
@example(password="  spaces count  ")
def test_a_password_reaches_the_worker_to_the_letter(alice, alice_client, no_worker, password):
    alice_client.post(
        reverse("integrations:garminconnect_connect"), {"email": "a@b.cc", "password": password}
    )

    login = GarminConnectLogin.objects.filter(user=alice).first()
    if "\0" in password:
        assert login is None
    else:
        # Browsers and multipart keep a line's end as it is.
        assert login.password == password
    GarminConnectLogin.objects.all().delete()
    GarminConnectAttempt.objects.all().delete()


# A browser does not send it; a charset of the sender's choice smuggles half a pair in.
@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape"])
def test_half_a_surrogate_pair_in_a_password_is_refused(alice_client, strava, no_worker, charset):
    half = {"utf-7": "+2AA-", "unicode_escape": "\\ud800"}[charset]
    parts = {"email": "a@b.cc", "password": half}
    body = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    )
    response = alice_client.generic(
        "POST",
        reverse("integrations:garminconnect_connect"),
        f"{body}--x--\r\n".encode(),
        content_type=f"multipart/form-data; boundary=x; charset={charset}",
    )
    assert response.status_code in (302, 400)
    assert not GarminConnectLogin.objects.exists()


# --- Pure functions -----------------------------------------------------------------------------

TOKEN = st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@PURE
@given(access=TOKEN, refresh=TOKEN, expires_at=st.integers(1, 253_402_300_799))
@example(access="a", refresh="r", expires_at=253_402_300_799)
def test_good_tokens_are_taken_to_the_letter(access, refresh, expires_at):
    answer = {"access_token": access, "refresh_token": refresh, "expires_at": expires_at}
    for tokens in (
        StravaTokens.model_validate(answer),
        StravaTokens.model_validate_json(json.dumps(answer)),
    ):
        assert (tokens.access_token, tokens.refresh_token) == (access, refresh)
        assert tokens.expires(NOW).tzinfo is UTC
        assert tokens.expires(NOW).timestamp() == expires_at
        assert access not in repr(tokens) or len(access) < 12
        assert tokens.athlete is None


@PURE
@given(answer=st.one_of(JSON_VALUES, st.fixed_dictionaries({
    "access_token": st.one_of(TOKEN, LEAVES),
    "refresh_token": st.one_of(TOKEN, LEAVES),
    "expires_at": st.one_of(st.integers(), st.integers(1, 10**9).map(str), LEAVES),
    "athlete": st.one_of(st.none(), st.fixed_dictionaries({"id": LEAVES})),
})))  # fmt: skip
@example(answer={"access_token": "a\n", "refresh_token": "r", "expires_at": 1})
@example(answer={"access_token": "a", "refresh_token": "r", "expires_at": True})
@example(answer={"access_token": "a", "refresh_token": "r", "expires_at": "1900000000"})
@example(answer={"access_token": "a", "refresh_token": "r", "expires_at": 253_402_300_800})
@example(answer={"access_token": "a", "refresh_token": "r", "expires_at": 1, "athlete": {"id": 0}})
def test_what_is_taken_for_tokens_can_be_used(answer):
    try:
        tokens = StravaTokens.model_validate_json(json.dumps(answer))
    except ValidationError:
        return
    for token in (tokens.access_token, tokens.refresh_token):
        assert token.isascii()
        assert token.isprintable()
        assert " " not in token
    assert isinstance(tokens.expires(NOW), datetime)
    assert type(answer["expires_at"]) in (int, float, str)
    assert tokens.expires_at == int(float(answer["expires_at"]))
    assert tokens.athlete is None or 0 < tokens.athlete.id < 2**63


DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
DROPPED = st.sampled_from(["\0", "\x1b", "\x7f", "\x9f", "\ud800", "\udfff", *DIRECTIONS])
KEPT = {
    "a joined emoji": "\U0001f6b4\u200d\u2640\ufe0f",
    "a skin tone": "\U0001f6b4\U0001f3fd",
    "a flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "a conjunct": "\u0915\u094d\u200d\u0937",
    "an accent": "e\u0301",
    "a mark of direction that is no control": "\u200f",
    "newer than any Python": "\U0003fffd",
    "two spaces": "a  b",
    "markup": "<b>",
}
NAMES = st.lists(
    st.one_of(
        st.sampled_from(list(KEPT.values())),
        st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=DIRECTIONS),
    )
)


@PURE
@given(value=st.one_of(st.none(), st.text(alphabet=st.characters())), length=st.integers(1, 300))
@example(value="a" * 255 + " b", length=256)
@example(value="\u202eevil\u2066", length=255)
def test_a_providers_text_can_be_stored(value, length):
    text = clean_text(value, length)

    assert len(text) <= length
    assert text == text.strip()
    assert not {unicodedata.category(char) for char in text} & {"Cc", "Cs"}
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)
    text.encode()
    assert clean_text(text, length) == text


@PURE
@given(parts=NAMES, dropped=st.lists(DROPPED))
def test_of_a_name_nothing_else_is_dropped(parts, dropped):
    name = "".join(parts).strip()[:255].strip()
    assert clean_text(name) == name
    # Whatever is dropped, wherever it stands.
    pieces = [*name, *dropped]
    random.Random(len(pieces)).shuffle(pieces)
    kept = "".join(piece for piece in pieces if piece not in dropped)
    assert clean_text("".join(pieces)) == kept.strip()


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\t", "\x0b\x0c", "\x1c", "\x85"])
def test_lines_and_columns_of_a_name_stay_words(separator):
    assert clean_text(f"{separator}Road{separator}bike{separator}") == "Road bike"


@pytest.mark.parametrize(
    "whole",
    ["\U0001f468\u200d\U0001f469\u200d\U0001f467",
     "e\u0301\u0323", "\U0001f6b4\U0001f3fd\u200d\u2640",
     "\u0645\u200c", "\U0001f3f4\U000e0067\U000e0062\U000e007f"],
)  # fmt: skip
def test_a_long_name_is_cut_between_what_is_seen_as_characters(whole):
    for cut in range(1, len(whole)):
        assert clean_text("x" * (255 - cut) + whole) == "x" * (255 - cut)
    assert clean_text("x" * (255 - len(whole)) + whole + "y") == "x" * (255 - len(whole)) + whole
    assert len(clean_text(whole[0] + whole[1:] * 300)) <= 255  # nowhere to cut


ENTRIES = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(LEAVES, JSON_VALUES, st.sampled_from(["b1", "Bike", "-1", 1e13]))
            for name in (
                "id", "uuid", "name", "distance", "primary", "retired", "gearType", "gearStatus",
                "brand", "model", "customMakeModel", "distanceUsedMeters",
            )
        },
    ),
)  # fmt: skip
LISTS = st.one_of(st.lists(ENTRIES, max_size=6), JSON_VALUES)


class GarminSaying(SimpleNamespace):
    def get_gear_list(self, start, limit):
        return self.gear

    def get_gear_stats(self, uuid):
        return self.statistics


@PURE
@given(bikes=LISTS, shoes=LISTS, at=st.integers(0, 6))
@example(bikes=[], shoes={}, at=0)
def test_whatever_is_listed_good_gear_is_read(bikes, shoes, at):
    """With Strava and with Garmin: no crash, nothing that the columns would not take."""
    if isinstance(bikes, list):
        bikes.insert(at, {"id": "b77", "name": "Good", "distance": 7, "primary": True})
        bikes.append(None)
    try:
        strava = read_gear(StravaProfile(id=1, bikes=bikes, shoes=shoes))
    except (InvalidProviderReply, ScopeMissing):
        assert not isinstance(bikes, list)
        assert not isinstance(shoes, list)
        strava = GearList()
    entries = [{"uuid": "b-77"}, shoes, *(bikes if isinstance(bikes, list) else [])]
    garmin = fetch_gear(GarminSaying(gear=entries, statistics=shoes))
    assert garmin.items[0].provider_gear_id == "b77"
    for item in (*strava.items, *garmin.items):
        assert re.fullmatch("[A-Za-z0-9_-]{1,64}", item.provider_gear_id)
        assert item.kind in (None, "bike", "shoes", "other")
        assert item.distance is None or 0 <= item.distance <= 10**12
        for text in (item.name, item.brand, item.model):
            assert text is None or text == clean_text(text)
        assert {type(item.primary), type(item.retired)} <= {bool, type(None)}
    if isinstance(bikes, list):
        assert ("b77", "Good", 7, True) in [
            (item.provider_gear_id, item.name, item.distance, item.primary) for item in strava.items
        ]
        assert "bike" in strava.partial
        assert strava.odd["bike"]


@PURE
@given(scopes=st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz:_", min_size=1), max_size=6))
def test_scopes_are_split_once_each_and_in_order(scopes):
    once = list(dict.fromkeys(scopes))
    for separator in (",", " ", ", ", ",,", "\t"):
        assert split_scope(separator.join(scopes)) == once


@PURE
@given(scope=st.text())
def test_any_scope_survives_the_column(scope):
    granted = split_scope(scope)
    row = UsersIntegrations(strava_scope=",".join(granted))
    assert STRAVA.scopes(row) == granted


def jwt(claims):
    part = base64.urlsafe_b64encode(
        claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    )
    return f"header.{part.decode().rstrip('=')}.signature"


@PURE
@given(exp=st.integers(0, 253_402_300_799))
def test_the_expiry_of_a_session_is_its_exp(exp):
    for said in (exp, str(exp)):
        assert token_expiry({"di_token": jwt({"exp": said, "sub": "x"})}, NOW).timestamp() == exp


@PURE
@given(
    ahead=st.integers(-(10**6), 10**6),
    age=st.integers(0, 10**6),
    lifetime=st.integers(1, 10**6),
    kind=st.sampled_from([int, str, float]),
)
def test_a_session_is_never_good_for_longer_than_it_was_made_for(ahead, age, lifetime, kind):
    """Whatever Garmin's clock says, and however old the session is."""
    now = int(NOW.timestamp())
    issued_at = now - age + ahead
    claims = {"iat": kind(issued_at), "exp": kind(issued_at + lifetime)}
    expiry = token_expiry({"di_token": jwt(claims)}, NOW).timestamp()
    assert expiry <= issued_at + lifetime
    assert expiry <= NOW.timestamp() + lifetime
    if ahead <= age:  # it is the earlier of the two, and neither is shortened
        assert expiry == issued_at + lifetime


@pytest.mark.parametrize("odd", [None, "soon", True, [], {}, 10**400, 2_000_000_000])
def test_an_odd_iat_leaves_the_exp(odd):
    claims = {"exp": 1_900_000_000, "iat": odd}
    assert token_expiry({"di_token": jwt(claims)}, NOW).timestamp() == 1.9e9


@pytest.mark.parametrize("odd", [None, "soon", True, [], {}, 10**400, ""])
def test_an_odd_exp_is_none(odd):
    assert token_expiry({"di_token": jwt({"exp": odd, "iat": 1_900_000_000})}, NOW) is None


@PURE
@given(
    tokens=st.one_of(
        st.none(),
        st.dictionaries(st.just("di_token"), st.one_of(JSON_VALUES, st.text())),
        JSON_VALUES.map(lambda value: {"di_token": jwt(value)}),
        LEAVES.map(lambda value: {"di_token": jwt({"exp": value})}),
        st.binary().map(lambda value: {"di_token": jwt(value)}),
    )
)
@example(tokens={"di_token": jwt(b"[" * 100_000 + b"]" * 100_000)})
@example(tokens={"di_token": jwt({"exp": 10**400})})
@example(tokens={"di_token": jwt({"exp": -(10**12)})})
def test_no_token_of_a_session_is_a_crash(tokens):
    expiry = token_expiry(tokens, NOW)
    assert expiry is None or expiry.tzinfo is UTC


# --- Encrypted fields ---------------------------------------------------------------------------


@pytest.fixture
def row(alice):
    return UsersIntegrations.objects.create(user=alice)


def stored(user):
    """What the database holds, opened: nothing of the instance that wrote it."""
    return row_of(user)


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@example(text="")
@example(text="fernet:not really")
@example(text="\0")
@example(text="x" * 100_000)
def test_any_text_comes_back(alice, row, text):
    UsersIntegrations.objects.filter(pk=row.pk).update(strava_token=text)
    assert stored(alice).strava_token == text
    row.strava_client_secret = text
    row.save()
    assert stored(alice).strava_client_secret == text


@given(text=st.text(alphabet=st.characters(categories=["Cs"]), min_size=1))
def test_half_a_surrogate_pair_is_no_text_and_is_not_stored(alice, row, text):
    """By definition: it has no UTF-8, so a text field refuses it before anything is written."""
    with pytest.raises(UnicodeEncodeError), transaction.atomic():
        UsersIntegrations.objects.filter(pk=row.pk).update(strava_token=text)
    assert not stored(alice).has_secret("strava_token")


@given(value=EXACT_JSON)
@example(value={"": [[], {}, [{"a": None}]], "\ud800": "\udfff"})
@example(value=[])
@example(value="")
@example(value=-0.0)
def test_any_json_comes_back(alice, row, value):
    UsersIntegrations.objects.filter(pk=row.pk).update(garminconnect_oauth2=value)

    found = stored(alice)
    assert found.garminconnect_oauth2 == value
    assert json.dumps(found.garminconnect_oauth2) == json.dumps(value)  # True is not 1
    assert found.has_secret("garminconnect_oauth2") == (value is not None)


@PURE
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])), value=EXACT_JSON)
def test_a_field_opens_what_it_seals_and_shows_nothing(text, value):
    for field, secret in ((EncryptedTextField(), text), (EncryptedJSONField(), value)):
        sealed = field.seal(secret)
        if secret is None:
            assert sealed is None
            continue
        assert isinstance(sealed, Sealed)
        assert field.from_plaintext(sealed.open().decode()) == secret
        assert field.seal(sealed) is sealed  # once is enough
        assert repr(sealed) == str(sealed) == "<sealed>"
        assert sealed == Sealed(sealed.ciphertext)
        assert sealed != field.seal(secret)  # never the same twice


@PURE
@given(ciphertext=st.binary(max_size=200))
def test_what_was_never_sealed_does_not_open(ciphertext):
    with pytest.raises(SecretUnreadable):
        Sealed(ciphertext).open()


@given(at=st.integers(min_value=0), bit=st.integers(0, 5))
def test_a_ciphertext_that_was_touched_does_not_open(at, bit):
    ciphertext = bytearray(EncryptedTextField().seal("s3cret").ciphertext)
    touched = bytearray(base64.urlsafe_b64decode(bytes(ciphertext)))
    touched[at % len(touched)] ^= 1 << bit
    with pytest.raises(SecretUnreadable):
        Sealed(base64.urlsafe_b64encode(bytes(touched))).open()


@given(values=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1))
@settings(max_examples=10)
def test_only_whoever_knows_what_is_stored_swaps_it(alice, row, values):
    """Compare and swap: the newest wins, and whoever read an older one changes nothing."""
    UsersIntegrations.objects.filter(pk=row.pk).update(strava_refresh_token="first")
    read = [stored(alice).sealed("strava_refresh_token")]
    for value in values:
        rows = UsersIntegrations.objects.filter(pk=row.pk, strava_refresh_token=read[-1])
        assert rows.update(strava_refresh_token=value) == 1
        read.append(stored(alice).sealed("strava_refresh_token"))
    for old in read[:-1]:
        rows = UsersIntegrations.objects.filter(pk=row.pk, strava_refresh_token=old)
        assert rows.update(strava_refresh_token="lost") == 0
    assert stored(alice).strava_refresh_token == values[-1]
    with keep_sealed():
        assert stored(alice).strava_refresh_token == read[-1]
