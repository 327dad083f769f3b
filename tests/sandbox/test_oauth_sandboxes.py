"""What the stand-ins of Polar, Wahoo and Intervals.icu have in common."""

import pytest
import requests

from integrations.sandbox import Sandbox

from .oauth import CALLBACK, site

NAMES = ("polar", "wahoo", "intervals")
CHECKED = ("ACTIVITY:READ", "SETTINGS:READ")
OWN_LIFETIME = {"polar": 600, "wahoo": 600, "intervals": 120}


@pytest.fixture(params=NAMES)
def app(request, sandbox, http):
    return site(request.param, sandbox, http)


def linked(app, **options):
    """Tokens of Alice's with which her user can be read."""
    scope = {"intervals": "SETTINGS:READ"}.get(app.name)
    tokens = app.provider.issue_tokens(app.module.ALICE, scope=scope, **options)
    if app.name == "polar":
        app.provider.register(app.module.ALICE, "m-1")
    return tokens["access_token"]


# Consent


def test_the_whole_dance(app):
    page = app.authorize()
    assert page.status_code == 200
    url, answer = app.come_back(ticked=CHECKED)
    assert url == CALLBACK
    assert answer["state"] == ["s-1"]
    assert set(answer) == {"state", "code"}

    tokens = app.exchange(answer["code"][0]).json()
    if app.name == "polar":
        app.call("POST", "v3/users", tokens["access_token"], json={"member-id": "m-1"})

    assert app.user(tokens["access_token"]).status_code == 200
    assert app.revoke(tokens["access_token"]).status_code in (200, 204)
    assert app.user(tokens["access_token"]).status_code == 401
    assert app.provider.exchanges == 1
    assert app.provider.refreshes == 0
    assert app.provider.users_fetched == 2
    assert app.provider.revocations == 1
    assert app.provider.violations == []


def test_the_consent_page_says_what_it_is_and_whom_it_offers(app):
    page = app.authorize()

    assert f"this is not {app.provider.title}" in page.text
    assert "Alice Archer" in page.text
    assert "Bjørn Ångström" in page.text
    assert "<script" not in page.text  # an athlete's name is markup
    assert "form-action 'self' http://127.0.0.1:8000" in page.headers["Content-Security-Policy"]


def test_scopes_can_be_unticked_at_intervals_alone(app):
    page = app.authorize().text

    assert page.count("(always)") == {"polar": 1, "wahoo": 3, "intervals": 0}[app.name]
    assert page.count("checked>") == {"polar": 0, "wahoo": 0, "intervals": 2}[app.name]


def test_a_scope_that_was_not_asked_for_cannot_be_ticked(sandbox, http):
    app = site("intervals", sandbox, http)

    _, answer = app.come_back(ticked=("CALENDAR:WRITE", "ACTIVITY:READ"))

    assert app.exchange(answer["code"][0]).json()["scope"] == "ACTIVITY:READ"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_id", "99999"),
        ("client_id", None),
        ("response_type", "token"),
        ("scope", "everything"),
        ("redirect_uri", None),
        ("redirect_uri", "https://evil.example/callback"),
        ("redirect_uri", "https://localhost@evil.example/"),
        ("redirect_uri", "https://evil.example\\@localhost/"),
        ("redirect_uri", "https://localhost/#fragment"),
        ("redirect_uri", "javascript://localhost/%0aalert(1)"),
        ("redirect_uri", "/callback"),
        ("state", "\x00"),
    ],
)
def test_a_bad_authorization_request_is_refused_and_nobody_redirected(app, field, value):
    response = app.authorize(**{field: value})

    assert response.status_code in (400, 422)
    assert "Location" not in response.headers


def test_registered_redirect_uris_are_compared_exactly(app):
    registered = "https://site.example/callback/"
    app.provider.edit_app(app.module.CLIENT_ID, redirect_uris=[registered])

    assert app.authorize(redirect_uri=registered).status_code == 200
    for other in (f"{registered}?a=1", registered.rstrip("/"), CALLBACK):
        assert app.authorize(redirect_uri=other).status_code == 400


@pytest.mark.parametrize(
    "redirect_uri", ["http://testserver/a/", "http://localhost:1/b", "http://[::1]:8000/c"]
)
def test_without_a_registration_any_address_of_this_machine_will_do(app, redirect_uri):
    assert app.authorize(redirect_uri=redirect_uri).status_code == 200


def test_the_consent_of_an_unknown_athlete_is_refused(app):
    for athlete_id in ("1", "me", ""):
        form = {"athlete_id": athlete_id, "decision": "authorize"}
        assert app.authorize("POST", form).status_code == 400


# Codes


def test_a_code_works_once(app):
    code = app.provider.grant(app.module.ALICE)
    assert app.exchange(code).status_code == 200

    assert app.exchange(code).status_code == 400


def test_a_code_is_no_other_clients(app):
    code = app.provider.grant(app.module.ALICE)
    other = (app.module.OTHER_CLIENT_ID, app.module.OTHER_CLIENT_SECRET)

    assert app.exchange(code, other).status_code == 400
    assert app.exchange(code).status_code == 200


@pytest.mark.parametrize("name", NAMES)
def test_a_code_grows_old(http, name):
    now = 1_800_000_000.0
    with Sandbox(clock=lambda: now) as sandbox:
        app = site(name, sandbox, http)
        in_time, late = (app.provider.grant(app.module.ALICE) for _ in range(2))

        now += OWN_LIFETIME[name] - 1
        assert app.exchange(in_time).status_code == 200
        now += 1
        assert app.exchange(late).status_code == 400


@pytest.mark.parametrize("name", ["polar", "wahoo"])
def test_the_exchange_names_the_redirect_uri_of_the_authorization(sandbox, http, name):
    app = site(name, sandbox, http)

    for wrong in ("http://127.0.0.1:8000/elsewhere/", ""):
        code = app.come_back()[1]["code"][0]
        assert app.exchange(code, redirect_uri=wrong).status_code == 400
    code = app.come_back()[1]["code"][0]
    assert app.exchange(code).status_code == 200


def test_a_grant_without_a_browser_is_of_a_known_athlete_app_and_scope(app):
    for arguments in ((1,), (app.module.ALICE, "nobody")):
        with pytest.raises(LookupError):
            app.provider.grant(*arguments)
    with pytest.raises(ValueError, match="unknown scope"):
        app.provider.grant(app.module.ALICE, scope="everything")


# Tokens


def test_a_bad_or_expired_access_token_is_401(app):
    token = linked(app)
    assert app.user(token).status_code == 200
    assert app.user("0" * 40).status_code == 401

    assert app.provider.expire(app.module.ALICE) == 1

    assert app.user(token).status_code == 401
    assert app.revoke(token).status_code == 401
    assert not app.provider.is_alive(token)


def test_a_token_in_the_query_is_no_token(app):
    path = app.user_path.format(app.module.ALICE)

    response = app.http.get(app.url(path), params={"access_token": linked(app)})

    assert response.status_code == 401


@pytest.mark.parametrize("by", ["app", "athlete"])
def test_a_revocation_ends_every_token_of_the_athlete_for_the_app(app, by):
    first, second = linked(app), linked(app)
    provider, alice, bjorn = app.provider, app.module.ALICE, app.module.BJORN
    somebody = provider.issue_tokens(bjorn)["access_token"]
    elsewhere = provider.issue_tokens(alice, app.module.OTHER_CLIENT_ID)["access_token"]
    code = provider.grant(alice)

    if by == "app":
        app.revoke(first)
    else:
        assert provider.revoke(alice) == 2

    assert not provider.is_alive(first)
    assert not provider.is_alive(second)
    assert app.exchange(code).status_code == 400
    assert provider.is_alive(somebody)
    assert provider.is_alive(elsewhere)


@pytest.mark.parametrize("secret", ["client_secret", "code", "refresh_token"])
def test_secrets_in_the_query_are_refused_and_noted(app, secret):
    code = app.provider.grant(app.module.ALICE)
    url = app.url(app.token_path)

    response = app.http.post(url, params={secret: code}, data={"code": code})

    assert response.status_code == 400
    assert app.provider.violations == [f"POST /{app.name}/{app.token_path}: {secret} in the query"]
    assert app.exchange(code).status_code == 200


def test_a_field_that_comes_twice_is_not_read(app):
    code = app.provider.grant(app.module.ALICE)

    assert app.exchange([code, code]).status_code in (400, 422)
    assert app.exchange(code).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe=\x00&client_id=%ff%00",
        b"code=" + b"1" * 5000,
        b"code=%00",
        b"&".join(b"a=1" for _ in range(5000)),
    ],
)
def test_garbage_is_a_client_error(app, body):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in (app.token_path, app.authorize_path, app.user_path, "v3/users"):
        response = app.http.post(app.url(path), data=body, headers=headers)
        assert 400 <= response.status_code < 500


def test_other_methods_are_refused(app):
    assert app.http.get(app.url(app.token_path)).status_code == 405
    assert app.http.delete(app.url(app.authorize_path)).status_code == 405
    assert app.call("POST", app.user_path.format(1), linked(app)).status_code == 405


def test_the_record_of_requests_holds_no_secret(app):
    code = app.provider.grant(app.module.ALICE)
    token = app.exchange(code).json()["access_token"]
    app.user(token)

    assert app.provider.requests[0]["status"] == 200
    for secret in (code, token, app.module.CLIENT_SECRET):
        assert secret not in str(app.provider.requests)


# Faults and controls


@pytest.mark.parametrize("fault", ["500", "429", "401_client", "403_inactive", "403_limit"])
def test_a_fault_is_in_the_providers_own_words_and_nothing_is_processed(app, fault):
    app.provider.fail("token", fault, times=1)
    code = app.provider.grant(app.module.ALICE)
    status = int(fault[:3])
    own = {("intervals", "401_client"): 404, ("wahoo", "403_inactive"): 422}

    assert app.exchange(code).status_code == own.get((app.name, fault), status)
    assert app.exchange(code).status_code == 200


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("polar", {"RateLimit-Usage", "RateLimit-Limit", "RateLimit-Reset"}),
        (
            "wahoo",
            {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"},
        ),
        ("intervals", {"X-RateLimit-Limit", "X-RateLimit-Remaining", "Retry-After"}),
    ],
)
def test_a_429_has_the_documented_headers(sandbox, http, name, headers):
    app = site(name, sandbox, http)
    app.provider.fail("user", "429")

    assert headers <= set(app.user(linked(app)).headers)


def test_a_connection_can_be_reset_after_the_exchange(app):
    app.provider.fail("token", "reset_after", times=1)
    code = app.provider.grant(app.module.ALICE)

    with pytest.raises(requests.ConnectionError, match="reset"):
        app.exchange(code)

    assert app.exchange(code).status_code == 400
    assert app.provider.exchanges == 2


def test_another_process_has_the_same_controls(app):
    def control(action, **fields):
        url = f"{app.sandbox.url}/_sandbox/{app.name}/{action}"
        return app.http.post(url, json=fields)

    code = control("grant", athlete_id=app.module.ALICE).json()["code"]
    token = app.exchange(code).json()["access_token"]
    assert control("alive", token=token).json() == {"alive": True}
    assert control("expire", athlete_id=app.module.ALICE).json() == {"expired": 1}
    assert control("alive", token=token).json() == {"alive": False}
    assert control("tokens", athlete_id=app.module.BJORN).json()["access_token"]
    assert control("revoke", athlete_id=app.module.BJORN).json() == {"revoked": 1}
    assert control("lifetime", seconds=60).json() == {"token_lifetime": 60}
    added = control("athlete", athlete_id="777", firstname="Eve").json()["athlete_id"]
    assert control("tokens", athlete_id=added).status_code == 200
    changed = control("app", client_id=app.module.CLIENT_ID, redirect_uris=["https://a.example/"])
    assert changed.json()["redirect_uris"] == ["https://a.example/"]
    for rule, default in app.provider.rules.items():
        assert control("rule", name=rule, on=not default).json() == {rule: not default}
    assert control("rule", name="name", on=True).status_code == 400
    assert control("grant", athlete_id=[]).status_code == 400

    app.provider.reset()

    assert app.provider.counts()["access_tokens"] == 0
    assert app.provider.token_lifetime == app.provider.lifetime
    assert all(getattr(app.provider, rule) is on for rule, on in app.provider.rules.items())


def test_the_index_lists_the_provider_its_apps_and_athletes(app):
    page = app.http.get(f"{app.sandbox.url}/").text

    assert f"<h2>{app.provider.title}</h2>" in page
    for text in (app.module.CLIENT_ID, app.module.CLIENT_SECRET, str(app.module.BJORN)):
        assert text in page
    for rule in app.provider.rules:
        assert f"<code>{rule}</code> (off)" in page
    assert "has not accepted the mandatory consents" in page
    assert "<script" not in page
