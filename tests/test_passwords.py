"""Changing a password, getting a new one by e-mail, and the lines that signing in leaves."""

from __future__ import annotations

import os
import re
import subprocess
import time

import pytest
from django.core import mail, signing
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from project import passwords
from project.env import Environment

from .processes import BASE_DIR, PYTHON
from .test_abuse import log_in

CHANGE = "/accounts/password_change/"
RESET = "/accounts/password_reset/"
PAGE = "/settings/integrations/"
NEW = "a-new-and-long-passphrase"
TYPED = "my-Secret-Typed-In-The-Wrong-Field"


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", "project.login")
    return lambda: [
        (record.event, record.getMessage())
        for record in caplog.records
        if record.name == "project.login"
    ]


def change(client, old="alice-demo", new=NEW):
    return client.post(
        CHANGE, {"old_password": old, "new_password1": new, "new_password2": new}, follow=True
    )


def ask(client, email="alice@example.com", **environ):
    return client.post(RESET, {"email": email}, follow=True, **environ)


def link_in(message):
    return re.search(r"^http\S+$", message.body, re.MULTILINE)[0]


def follow(client, link, new=NEW):
    form = client.get(link, follow=True)
    fields = {"new_password1": new, "new_password2": new}
    return client.post(form.request["PATH_INFO"], fields, follow=True)


# --- Log-ins ------------------------------------------------------------------------------------


def test_who_logs_in_and_out_leaves_a_line(alice, client, lines):
    log_in(client, "alice-demo", REMOTE_ADDR="198.51.100.7")
    client.post("/accounts/logout/", REMOTE_ADDR="2001:db8:5:6::7")

    assert lines() == [
        ("login.done", f"login.done: user {alice.pk} from 198.51.100.7"),
        ("logout.done", f"logout.done: user {alice.pk} from 2001:db8:5::/48"),
    ]


@pytest.mark.parametrize("path", ["/accounts/login/", "/admin/login/"])
def test_a_failed_log_in_leaves_a_line_without_what_was_typed(alice, client, lines, path, caplog):
    for name in ("alice", TYPED):
        client.post(path, {"username": name, "password": f"{TYPED}-2"})

    (event, known), (_event, unknown) = lines()
    assert (event, known) == ("login.failed", f"login.failed: user {alice.pk} from 127.0.0.1")
    assert re.fullmatch(r"login.failed: nobody, [0-9a-f]{16} from 127.0.0.1", unknown)
    assert TYPED not in repr([vars(record) for record in caplog.records if record.name != "django"])


def test_a_guess_too_many_leaves_a_line(alice, client, lines):
    for n in range(11):
        log_in(client, f"wrong-{n}")
    assert [event for event, _line in lines()] == ["login.failed"] * 9 + ["login.limited"] * 2
    assert lines()[-1][1] == f"login.limited: user {alice.pk} from 127.0.0.1"


# --- Changing -----------------------------------------------------------------------------------


def test_an_athlete_changes_the_password_and_all_other_sessions_end(alice, client, lines):
    elsewhere = Client()
    for each in (client, elsewhere):
        each.force_login(alice)

    page = change(client)

    assert page.redirect_chain == [(PAGE, 302)]
    assert "signed out everywhere" in page.content.decode()
    assert elsewhere.get(PAGE).status_code == 302
    assert log_in(Client(), NEW).status_code == 302
    assert ("password.changed", f"password.changed: user {alice.pk}") in lines()
    assert CHANGE in client.get(PAGE).content.decode()


@pytest.mark.parametrize("new", ["short", "password123", "1234567890123", "alice@example.com"])
def test_a_weak_password_is_refused(alice, alice_client, new):
    assert change(alice_client, new=new).context["form"].errors
    assert log_in(Client(), "alice-demo").status_code == 302


@pytest.mark.parametrize("path", [CHANGE, "/admin/password_change/"])
def test_an_open_browser_does_not_help_to_guess_the_old_password(admin_user, path):
    client = Client()
    client.force_login(admin_user)
    fields = {"new_password1": NEW, "new_password2": NEW}
    for n in range(10):
        client.post(path, {"old_password": f"wrong-{n}", **fields})
    page = client.post(path, {"old_password": "password", **fields})
    assert "five minutes" in page.content.decode()
    cache.clear()  # five minutes later
    assert client.post(path, {"old_password": "password", **fields}).status_code == 302


# --- Forgetting ---------------------------------------------------------------------------------


def test_a_forgotten_password_is_replaced_by_a_link_that_works_once(alice, client, lines):
    elsewhere = Client()
    elsewhere.force_login(alice)
    assert RESET in client.get("/accounts/login/").content.decode()

    page = ask(client)

    assert "If there is an account" in page.content.decode()
    [message] = mail.outbox
    assert message.to == ["alice@example.com"]
    link = link_in(message)
    done = follow(client, link)
    assert done.redirect_chain == [("/accounts/login/", 302)]
    assert "Your new password is set" in done.content.decode()
    assert elsewhere.get(PAGE).status_code == 302
    assert log_in(Client(), NEW).status_code == 302
    assert "no longer works" in Client().get(link, follow=True).content.decode()
    events = [event for event, _line in lines()]
    assert events == ["login.done", "password.reset_asked", "password.reset_done", "login.done"]


def test_nobody_is_told_who_is_a_user(alice, client, lines, django_user_model):
    django_user_model.objects.create_user("gone", "gone@example.com", "x", is_active=False)
    answers = {
        re.sub(r'value="[^"]+"', "", ask(Client(), email).content.decode())
        for email in ("alice@example.com", "nobody@example.com", "gone@example.com")
    }
    assert len(answers) == 1
    assert [message.to for message in mail.outbox] == [["alice@example.com"]]
    assert "nobody@example.com" not in repr(lines())


def test_the_answer_costs_the_same_whether_there_is_a_user(alice, client, settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    asked = []
    for email in ("alice@example.com", "nobody@example.com"):
        with CaptureQueriesContext(connection) as queries:
            client.post(RESET, {"email": email})
        asked.append([query["sql"][:20] for query in queries])
    assert len(asked[0]) >= 2  # for the users, and to keep the task
    assert asked[0] == asked[1]


def test_what_waits_for_the_worker_is_no_secret(alice, client, settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    ask(client)
    from django.tasks import default_task_backend

    [result] = default_task_backend.results
    [[[pk, address]], _language] = signing.loads(*result.args, salt=passwords.SALT)
    assert pk == str(alice.pk)
    assert "token" not in address
    assert "alice@" not in address


def test_whoever_writes_to_the_queue_cannot_have_a_link_sent_to_their_own_site(alice):
    links = [[[str(alice.pk), "https://evil.example/"]], "en"]
    for asked in (links, signing.dumps(links), signing.dumps(links, key="guessed")):
        with pytest.raises((signing.BadSignature, AttributeError)):
            passwords.send_password_reset.call(asked)
    assert not mail.outbox


def test_a_mailbox_is_not_flooded(alice, client, lines):
    answers = {ask(Client(), REMOTE_ADDR=f"198.51.100.{n}").status_code for n in range(6)}
    assert answers == {200}
    assert len(mail.outbox) == passwords.MOST_TO_ADDRESS
    follow(client, link_in(mail.outbox[0]))  # what was sent works
    assert log_in(Client(), NEW).status_code == 302
    assert lines()[5][0] == "password.reset_limited"


def test_one_network_does_not_write_to_everybody(client, django_user_model):
    for n in range(25):
        django_user_model.objects.create_user(f"athlete{n}", f"a{n}@example.com", "x")
        ask(client, f"a{n}@example.com")
    assert len(mail.outbox) == passwords.MOST_FROM_NETWORK


@pytest.mark.parametrize(
    ("base", "start"),
    [("", "http://testserver/accounts/reset/"), ("https://x.example/a", "https://x.example/a/acc")],
)
def test_the_link_names_the_sites_public_address(alice, client, settings, base, start):
    settings.INTEGRATIONS_BASE_URL = base
    ask(client)
    assert link_in(mail.outbox[0]).startswith(start)


def test_the_token_is_in_no_path(alice, client):
    ask(client)
    link = link_in(mail.outbox[0])
    path, _mark, token = link.partition("?token=")
    response = client.get(link)
    assert token
    assert token not in path
    assert token not in response["Location"]


def test_a_link_is_too_old_after_an_hour(alice, client, monkeypatch):
    from datetime import datetime, timedelta

    from django.contrib.auth.tokens import PasswordResetTokenGenerator as Tokens

    ask(client)
    later = datetime.now() + timedelta(seconds=3601)
    monkeypatch.setattr(Tokens, "_now", lambda self: later)
    page = client.get(link_in(mail.outbox[0]), follow=True)
    assert "no longer works" in page.content.decode()


def test_a_mail_server_that_fails_shows_no_address(alice, client, monkeypatch, caplog):
    def refused(*args, **kwargs):
        raise OSError("alice@example.com refused")

    monkeypatch.setattr("project.passwords.send_mail", refused)
    assert ask(client).status_code == 200
    assert "password.reset_not_sent" in [getattr(each, "event", "") for each in caplog.records]
    assert "alice@" not in caplog.text


def test_without_a_mail_server_nobody_is_offered_a_link(client, db, settings):
    settings.MAILERS = {}
    assert RESET not in client.get("/accounts/login/").content.decode()
    assert client.get(RESET).status_code == 404


def test_a_broker_that_is_down_is_told(alice, client, settings, monkeypatch):
    def down(*args):
        raise ConnectionError

    monkeypatch.setattr("integrations.tasks.enqueue_now", down)
    response = ask(client)
    assert response.status_code == 503
    assert response.context["form"].non_field_errors()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("smtp://mail.example", ("mail.example", 25, "", "", False, False)),
        ("smtp+tls://u%40x:p%2Fw@mail.example", ("mail.example", 587, "u@x", "p/w", True, False)),
        ("smtp+ssl://u:p@mail.example:2465", ("mail.example", 2465, "u", "p", False, True)),
    ],
)
def test_a_mail_server_is_an_address(url, options):
    read = Environment({"NAME": url}).mailers("NAME")["default"]["OPTIONS"]
    names = ("host", "port", "username", "password", "use_tls", "use_ssl")
    assert tuple(read[name] for name in names) == options
    assert 0 < read["timeout"] <= 10


def test_a_silent_mail_server_keeps_no_request_waiting(alice, client, settings):
    """The message is a worker's to send: the answer comes before anybody speaks to the server."""
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    settings.MAILERS = Environment({"NAME": "smtp://127.0.0.1:9"}).mailers("NAME")
    began = time.monotonic()
    assert ask(client).status_code == 200
    assert time.monotonic() - began < 5


def test_a_celery_worker_knows_the_task():
    """It is found by the system checks, which Celery runs at a worker's start and which load the
    site's addresses."""
    script = (
        "import django; django.setup(); from project.celery import app; "
        "app.loader.import_default_modules(); print(*app.tasks)"
    )
    celery = {"TASKS_BACKEND": "celery", "CELERY_BROKER_URL": "redis://127.0.0.1:9/0"}
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", **celery}
    worker = subprocess.run(
        [PYTHON, "-c", script], env=env, cwd=BASE_DIR, capture_output=True, text=True, timeout=60
    )
    assert worker.returncode == 0, worker.stderr
    names = {"project.passwords.send_password_reset", "integrations.tasks.sync_gear"}
    assert names <= set(worker.stdout.split())
