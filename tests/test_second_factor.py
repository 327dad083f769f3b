"""A second factor for staff, where the site wants it: the lines of the documentation, tried."""

from __future__ import annotations

import pytest

from .test_project import PRODUCTION, manage

ENTER = """
import contextlib, io, time
from base64 import b32decode
from urllib.parse import parse_qs, urlsplit
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django_otp.oath import TOTP
from project import second_factor

settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
call_command("migrate", verbosity=0)
User.objects.create_superuser("root", "root@example.com", "root-demo")
with contextlib.redirect_stdout(io.StringIO()) as printed:
    for _ in range(2):  # the second replaces the first
        second_factor.main("root")
address = urlsplit(printed.getvalue().splitlines()[-1])
assert address.scheme == "otpauth"
seed = parse_qs(address.query)["secret"][0]

def code(wrong=0):
    return f"{(TOTP(b32decode(seed)).token() + wrong) % 10**6:06}"

def enter(client, **fields):
    named = {"username": "root", "password": "root-demo", **fields}
    client.post("/admin/login/?next=/admin/", named, **HTTPS)
    return client.get("/admin/", **HTTPS).status_code

HTTPS = {"secure": True, "headers": {"host": "example.org"}}
page = Client()
shown = page.post("/admin/login/", {"username": "root", "password": "root-demo"}, **HTTPS)
athlete = Client()
athlete.post("/accounts/login/", {"username": "root", "password": "root-demo"}, **HTTPS)
print(
    enter(Client()),
    enter(Client(), otp_token=code(wrong=1)),
    athlete.get("/settings/integrations/", **HTTPS).status_code,
    athlete.get("/admin/", **HTTPS).status_code,
    b"root-demo" in shown.content,
)
time.sleep(1.1)  # for as long, the library takes no code after a wrong one
good = code()
staff = Client()
print(
    enter(staff, otp_token=good),
    enter(Client(), otp_token=good),
    enter(Client(), otp_token=good, password="wrong"),
    seed in staff.get("/admin/otp_totp/totpdevice/1/change/", **HTTPS).content.decode(),
)
"""


@pytest.fixture
def site(tmp_path):
    """manage.py of a site in production that wants a second factor."""
    environment = {
        **PRODUCTION,
        "STAFF_SECOND_FACTOR": "on",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "PYTHONWARNINGS": "ignore",
    }
    return lambda *arguments, **more: manage(*arguments, **environment, **more)


def test_staff_need_a_code_besides_the_password(site):
    code, out, err = site("shell", "--no-imports", "-c", ENTER)

    assert code == 0, err
    # Without a code, with a wrong one: neither. The site itself needs none.
    # With one: yes, once, and with the password only. No page shows a seed or the password.
    assert out.split() == ["302", "302", "200", "302", "False", "200", "302", "302", "False"]
    assert "login.wrong_code: user 1" in err


def test_the_deployment_check_is_silent_with_a_second_factor(site):
    code, out, err = site("check", "--deploy", "--fail-level", "INFO")
    assert (code, err) == (0, "")
    assert out.startswith("System check identified no issues")
