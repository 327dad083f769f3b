"""The sandbox does what Strava does, down to its errors."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from integrations.sandbox import Sandbox
from integrations.sandbox.strava import (
    ALICE,
    BJORN,
    CHIDI,
    CLIENT_ID,
    CLIENT_SECRET,
    DANA,
    OTHER_CLIENT_ID,
    OTHER_CLIENT_SECRET,
)

WRONG = "nope"
CALLBACK = "http://localhost:8000/integrations/strava/callback/"


@pytest.fixture
def authorize(http, sandbox):
    def authorize(method="GET", data=None, **changes):
        query = {
            "client_id": CLIENT_ID,
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "approval_prompt": "auto",
            "scope": "read,profile:read_all",
            "state": "s-1",
        } | changes
        query = {name: value for name, value in query.items() if value is not None}
        return http.request(
            method,
            f"{sandbox.url}/oauth/authorize",
            params=query,
            data=data,
            allow_redirects=False,
        )

    return authorize


@pytest.fixture
def token(http, sandbox):
    def token(**fields):
        fields = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET} | fields
        return http.post(f"{sandbox.url}/oauth/token", data=fields, timeout=5)

    return token


@pytest.fixture
def exchange(token):
    return lambda code, **fields: token(grant_type="authorization_code", code=code, **fields)


@pytest.fixture
def refresh(token):
    return lambda value, **fields: token(grant_type="refresh_token", refresh_token=value, **fields)


@pytest.fixture
def revoke(http, sandbox):
    def revoke(value, client_id=CLIENT_ID, client_secret=CLIENT_SECRET):
        return http.post(
            f"{sandbox.url}/oauth/revoke", data={"token": value}, auth=(client_id, client_secret)
        )

    return revoke


@pytest.fixture
def get(http, sandbox):
    def get(path, access_token):
        return http.get(
            f"{sandbox.url}/api/v3/{path}",
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=5,
        )

    return get


def answer_of(response):
    assert response.status_code == 302
    url = response.headers["Location"]
    return url, parse_qs(urlsplit(url).query)


def assert_error(response, status, message, *error):
    assert response.status_code == status
    errors = [dict(zip(("resource", "field", "code"), error, strict=True))] if error else []
    assert response.json() == {"message": message, "errors": errors}


# The dance


def test_the_whole_dance(authorize, exchange, get, refresh, revoke, strava):
    page = authorize()
    assert page.status_code == 200
    form = {"athlete_id": ALICE, "scope": "profile:read_all", "decision": "authorize"}
    url, answer = answer_of(authorize("POST", form))
    assert url.startswith(CALLBACK)
    assert answer["state"] == ["s-1"]
    assert answer["scope"] == ["read,profile:read_all"]

    tokens = exchange(answer["code"][0]).json()
    assert tokens.get("token_type") == "Bearer"
    assert tokens["expires_in"] in (21599, 21600)
    assert abs(tokens["expires_at"] - time.time() - 21600) < 3
    assert re.fullmatch("[0-9a-f]{40}", tokens["access_token"])
    assert tokens["athlete"]["id"] == ALICE

    me = get("athlete", tokens["access_token"]).json()
    assert [bike["id"] for bike in me["bikes"]] == ["b1001", "b1002"]
    detail = get("gear/b1001", tokens["access_token"]).json()
    assert detail["brand_name"] == "Canyonesque"
    assert detail["frame_type"] == 3
    assert "frame_type" not in get("gear/g2001", tokens["access_token"]).json()

    assert refresh(tokens["refresh_token"]).json()["access_token"] == tokens["access_token"]
    assert revoke(tokens["refresh_token"]).status_code == 200
    assert get("athlete", tokens["access_token"]).status_code == 401
    assert strava.calls == {
        "authorize": 2, "token": 2, "athlete": 2, "gear": 2, "revoke": 1,
    }  # fmt: skip
    assert strava.violations == []


def test_refreshing_early_returns_the_same_pair(refresh, strava):
    old = strava.issue_tokens(ALICE, expires_in=3700)

    new = refresh(old["refresh_token"]).json()

    assert new["access_token"] == old["access_token"]
    assert new["refresh_token"] == old["refresh_token"]
    assert "athlete" not in new


def test_refreshing_late_rotates_and_the_old_refresh_token_is_dead(refresh, strava):
    old = strava.issue_tokens(ALICE, expires_in=3500)

    new = refresh(old["refresh_token"]).json()

    assert new["access_token"] != old["access_token"]
    assert strava.is_alive(new["access_token"])
    assert not strava.is_alive(old["refresh_token"])
    assert_error(
        refresh(old["refresh_token"]),
        400, "Bad Request", "RefreshToken", "refresh_token", "invalid",
    )  # fmt: skip


def test_of_many_refreshes_at_once_one_wins(refresh, strava):
    old = strava.issue_tokens(ALICE, expires_in=-1)["refresh_token"]
    strava.fail("token", "delay", seconds=0.05)

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(r.status_code for r in pool.map(refresh, [old] * 8))

    assert statuses == [200] + [400] * 7
    assert strava.calls["token"] == 8


def test_the_token_lifetime_can_be_set(exchange, strava):
    strava.token_lifetime = 60

    assert exchange(strava.grant(ALICE)).json()["expires_in"] in (59, 60)


def test_an_expired_access_token_is_refused(get, strava):
    tokens = strava.issue_tokens(ALICE)
    assert get("athlete", tokens["access_token"]).status_code == 200

    assert strava.expire(ALICE) == 1

    assert get("athlete", tokens["access_token"]).status_code == 401
    assert not strava.is_alive(tokens["access_token"])
    assert strava.is_alive(tokens["refresh_token"])


# The consent page


def test_the_consent_page_says_what_it_is_and_offers_athletes_and_scopes(authorize):
    page = authorize()

    assert "this is not Strava" in page.text
    assert "Demo site" in page.text
    assert "Alice Archer" in page.text
    assert 'name="scope" value="profile:read_all" checked' in page.text
    assert "<script" not in page.text  # an athlete's name is markup


def test_the_consent_page_allows_its_form_to_be_redirected_to_the_app(authorize):
    policy = authorize().headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "form-action 'self' http://localhost:8000" in policy


def test_unticking_a_scope_grants_less(authorize, exchange, get):
    _, answer = answer_of(authorize("POST", {"athlete_id": ALICE, "decision": "authorize"}))
    assert answer["scope"] == ["read"]

    access_token = exchange(answer["code"][0]).json()["access_token"]

    assert "bikes" not in get("athlete", access_token).json()


def test_a_scope_that_was_not_asked_for_cannot_be_ticked(authorize):
    form = {"athlete_id": ALICE, "decision": "authorize", "scope": "activity:write"}

    assert answer_of(authorize("POST", form))[1]["scope"] == ["read"]


def test_cancelling_sends_access_denied(authorize):
    _, answer = answer_of(authorize("POST", {"athlete_id": ALICE, "decision": "cancel"}))

    assert answer == {"state": ["s-1"], "error": ["access_denied"]}


def test_a_redirect_uri_keeps_its_own_query(authorize):
    response = authorize("POST", {"decision": "cancel"}, redirect_uri=f"{CALLBACK}?next=1")

    assert answer_of(response)[0] == f"{CALLBACK}?next=1&state=s-1&error=access_denied"


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "http://testserver/callback",
        "https://app.testserver/callback",
        "http://127.0.0.1:1/callback",
    ],
)
def test_the_callback_domain_its_subdomains_and_local_hosts_are_allowed(authorize, redirect_uri):
    assert authorize(redirect_uri=redirect_uri).status_code == 200


@pytest.mark.parametrize(
    "redirect_uri",
    [
        None,
        "",
        "https://evil.example/callback",
        "https://eviltestserver/callback",
        "https://testserver.evil.example/",
        "https://localhost@evil.example/",
        "https://evil.example\\@localhost/",
        "https://localhost/#fragment",
        "javascript://localhost/%0aalert(1)",
        "http://[localhost/",
        "http://localhost:port/",
        "/callback",
    ],
)
def test_any_other_redirect_uri_is_invalid(authorize, redirect_uri):
    assert_error(
        authorize(redirect_uri=redirect_uri),
        400, "Bad Request", "Application", "redirect_uri", "invalid",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_id", "99999"),
        ("client_id", None),
        ("response_type", "token"),
        ("scope", "read,everything"),
        ("scope", ""),
    ],
)
def test_a_bad_authorization_request_is_not_redirected(authorize, field, value):
    assert_error(authorize(**{field: value}), 400, "Bad Request", "Application", field, "invalid")


def test_the_consent_of_an_unknown_athlete_is_refused(authorize):
    for athlete_id in ("1", "me", ""):
        form = {"athlete_id": athlete_id, "decision": "authorize"}
        assert authorize("POST", form).status_code == 400


def test_a_full_app_gets_a_page_without_a_way_back(authorize, exchange, strava):
    code = strava.grant(ALICE)
    strava.limit_athletes(0)

    page = authorize()
    assert page.status_code == 403
    assert "Limit of connected athletes exceeded" in page.text
    assert "localhost:8000" not in page.text
    assert exchange(code).status_code == 403


# The table of errors


def test_an_unknown_client_is_400(exchange, strava):
    assert_error(
        exchange(strava.grant(ALICE), client_id="99999"),
        400, "Bad Request", "Application", "client_id", "invalid",
    )  # fmt: skip


def test_a_wrong_secret_is_401(exchange, refresh, strava):
    for response in (
        exchange(strava.grant(ALICE), client_secret=WRONG),
        refresh(strava.issue_tokens(ALICE)["refresh_token"], client_secret=""),
    ):
        assert_error(response, 401, "Authorization Error", "Application", "", "invalid")


def test_a_bad_code_is_400(exchange, strava):
    others = strava.grant(ALICE, client_id=OTHER_CLIENT_ID)
    for code in ("0" * 40, "", others):
        assert_error(exchange(code), 400, "Bad Request", "AuthorizationCode", "code", "invalid")


def test_a_code_works_once(exchange, strava):
    code = strava.grant(ALICE)
    assert exchange(code).status_code == 200

    assert_error(exchange(code), 400, "Bad Request", "AuthorizationCode", "", "expired")


def test_a_code_grows_old(token, http):
    now = 1_800_000_000.0
    with Sandbox(clock=lambda: now) as sandbox:
        fields = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "grant_type": "authorization_code",
            "code": sandbox.strava.grant(ALICE),
        }
        now += 601
        response = http.post(f"{sandbox.url}/oauth/token", data=fields)

    assert_error(response, 400, "Bad Request", "AuthorizationCode", "", "expired")


def test_a_refresh_token_belongs_to_its_client(refresh, strava):
    pair = strava.issue_tokens(ALICE, client_id=OTHER_CLIENT_ID)

    assert_error(
        refresh(pair["refresh_token"]),
        400, "Bad Request", "RefreshToken", "refresh_token", "invalid",
    )  # fmt: skip
    assert strava.is_alive(pair["refresh_token"])


def test_an_unknown_grant_type_is_400(token):
    assert token(grant_type="password").status_code == 400
    assert token().status_code == 400


def test_a_bad_access_token_is_401(get, http, sandbox, strava):
    good = strava.issue_tokens(ALICE)["access_token"]
    error = (401, "Authorization Error", "Athlete", "access_token", "invalid")

    assert_error(get("athlete", "0" * 40), *error)
    assert_error(http.get(f"{sandbox.url}/api/v3/athlete"), *error)
    assert strava.violations == []
    # From 2027-06-01 the header is the only place.
    assert_error(http.get(f"{sandbox.url}/api/v3/athlete", params={"access_token": good}), *error)
    assert strava.violations == ["GET /api/v3/athlete: access_token in the query"]


def test_a_missing_scope_is_401(get, strava):
    reader = strava.issue_tokens(ALICE, scope="read")["access_token"]
    stranger = strava.issue_tokens(ALICE, scope="activity:read")["access_token"]

    for response, scope in (
        (get("gear/b1001", reader), "profile:read_all"),
        (get("athlete", stranger), "read"),
    ):
        assert_error(
            response,
            401, "Authorization Error", "AccessToken", f"{scope}_permission", "missing",
        )  # fmt: skip


def test_an_inactive_app_gets_403_but_may_refresh(get, exchange, refresh, strava):
    pair, code = strava.issue_tokens(ALICE), strava.grant(ALICE)
    strava.deactivate(CLIENT_ID)

    for response in (get("athlete", pair["access_token"]), exchange(code)):
        assert_error(response, 403, "Forbidden", "Application", "Status", "Inactive")
    assert refresh(pair["refresh_token"]).status_code == 200

    strava.activate(CLIENT_ID)
    assert get("athlete", pair["access_token"]).status_code == 200


def test_gear_of_somebody_else_is_not_found(get, strava):
    access_token = strava.issue_tokens(ALICE)["access_token"]

    for gear_id in ("b1101", "b0", "%00", "..%2f"):
        assert get(f"gear/{gear_id}", access_token).status_code == 404


def test_the_demo_gear_has_what_breaks_things(get, strava):
    alice, bjorn, chidi, dana = (
        get("athlete", strava.issue_tokens(each)["access_token"]).json()
        for each in (ALICE, BJORN, CHIDI, DANA)
    )

    assert alice["shoes"][1]["name"] == ""
    assert "🚲" in bjorn["bikes"][0]["name"]
    assert "<b>" in bjorn["bikes"][1]["name"]
    assert bjorn["bikes"][2]["retired"] is True
    assert chidi["bikes"] == chidi["shoes"] == []
    assert dana["id"] > 2**32
    assert set(alice["bikes"][0]) == {"id", "primary", "name", "distance", "resource_state"}


# Rate limits


def test_every_call_says_how_much_of_the_limits_is_used(get, strava):
    access_token = strava.issue_tokens(ALICE)["access_token"]
    get("athlete", access_token)

    headers = get("gear/b1001", access_token).headers

    assert headers["X-RateLimit-Limit"] == "200,2000"
    assert headers["X-RateLimit-Usage"] == "2,2"
    assert headers["X-ReadRateLimit-Limit"] == "100,1000"
    assert headers["X-ReadRateLimit-Usage"] == "2,2"


def test_past_the_limit_calls_are_refused_and_still_count(http):
    now = 1_800_000_000.0 - 60  # a minute before the quarter turns
    with Sandbox(clock=lambda: now) as sandbox:
        strava = sandbox.strava
        strava.limit_rate(read=(2, 5))
        bearer = {"Authorization": f"Bearer {strava.issue_tokens(ALICE)['access_token']}"}
        other = strava.issue_tokens(ALICE, client_id=OTHER_CLIENT_ID)["access_token"]

        def call():
            return http.get(f"{sandbox.url}/api/v3/athlete", headers=bearer)

        assert [call().status_code for _ in range(4)] == [200, 200, 429, 429]
        refused = call()
        assert_error(
            refused,
            429, "Rate Limit Exceeded", "Application", "rate limit", "exceeded",
        )  # fmt: skip
        assert refused.headers["X-ReadRateLimit-Usage"] == "5,5"
        response = http.get(
            f"{sandbox.url}/api/v3/athlete", headers={"Authorization": f"Bearer {other}"}
        )
        assert response.status_code == 200  # limits are per app

        now += 60  # a new quarter, the same day: the daily limit holds
        refused = call()
        assert refused.status_code == 429
        assert refused.headers["X-ReadRateLimit-Usage"] == "1,6"

        now += 24 * 60 * 60
        bearer["Authorization"] = f"Bearer {strava.issue_tokens(ALICE)['access_token']}"
        assert call().headers["X-ReadRateLimit-Usage"] == "1,1"


# Revocation


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
def test_revoking_either_token_kills_all_of_the_grant(revoke, strava, which):
    pair, second = strava.issue_tokens(ALICE), strava.issue_tokens(ALICE)
    elsewhere = strava.issue_tokens(ALICE, client_id=OTHER_CLIENT_ID)
    somebody = strava.issue_tokens(BJORN)

    response = revoke(pair[which])

    assert response.status_code == 200
    assert response.content == b""
    for dead in (pair, second):
        assert not strava.is_alive(dead["access_token"])
        assert not strava.is_alive(dead["refresh_token"])
    for alive in (elsewhere, somebody):
        assert strava.is_alive(alive["access_token"])


def test_revoking_an_unknown_token_is_no_error(revoke):
    response = revoke("0" * 40)

    assert (response.status_code, response.content) == (200, b"")


def test_revoking_the_token_of_another_app_does_nothing(revoke, strava):
    pair = strava.issue_tokens(ALICE)

    assert revoke(pair["refresh_token"], OTHER_CLIENT_ID, OTHER_CLIENT_SECRET).status_code == 200
    assert strava.is_alive(pair["refresh_token"])


def test_revoking_as_a_bad_client_is_401(revoke, http, sandbox, strava):
    pair = strava.issue_tokens(ALICE)

    assert_error(revoke(pair["access_token"], client_secret=WRONG), 401, "Authorization Error")
    assert_error(revoke(pair["access_token"], client_id="1"), 401, "Authorization Error")
    for header in ("", "Basic", "Basic ???", "Basic /w==", "Bearer x"):
        response = http.post(
            f"{sandbox.url}/oauth/revoke",
            data={"token": pair["access_token"]},
            headers={"Authorization": header},
        )
        assert response.status_code == 401
    assert strava.is_alive(pair["access_token"])


def test_deauthorizing_kills_the_pair_too(http, sandbox, strava):
    pair = strava.issue_tokens(ALICE)
    headers = {"Authorization": f"Bearer {pair['access_token']}"}

    assert http.post(f"{sandbox.url}/oauth/deauthorize", headers=headers).status_code == 200

    assert not strava.is_alive(pair["refresh_token"])
    assert http.post(f"{sandbox.url}/oauth/deauthorize", headers=headers).status_code == 401


# Secrets in a URL


def test_secrets_in_the_query_work_and_are_noted(http, sandbox, strava):
    query = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "grant_type": "authorization_code",
        "code": strava.grant(ALICE),
    }

    assert http.post(f"{sandbox.url}/oauth/token", params=query).status_code == 200

    assert strava.violations == ["POST /oauth/token: client_secret in the query"]


def test_the_record_of_requests_holds_no_secret(exchange, get, strava):
    code = strava.grant(ALICE)
    access_token = exchange(code).json()["access_token"]
    get("athlete", access_token)

    assert strava.requests[0] == {
        "endpoint": "token",
        "method": "POST",
        "path": "/oauth/token",
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "fault": None,
        "status": 200,
    }
    for secret in (code, access_token, CLIENT_SECRET):
        assert secret not in str(strava.requests)
