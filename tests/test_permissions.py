"""Who may do what: every view of the site, for everyone who might try."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from integrations import services
from integrations.models import Gear, LinkEvent, UsersIntegrations

# What a view answers: to nobody, an athlete, staff without a permission, staff who may view,
# staff who may change, and a superuser. "login" is a redirect to it, "page" any redirect to the
# settings page, and a number itself.
EVERYBODY = ("login", "ok", "ok", "ok", "ok", "ok")
ACTING = ("login", "page", "page", "page", "page", "page")
OPEN = ("ok",) * 6
SEEING = ("login", "login", 403, "ok", "ok", "ok")
NOBODY = ("login", "login", 403, 403, 403, 403)
VIEWS = {
    "integrations:settings": ("get", EVERYBODY),
    "integrations:status": ("get", EVERYBODY),
    "integrations:export": ("get", EVERYBODY),
    "integrations:strava_connect": ("post", ("login", *["strava"] * 5)),
    "integrations:strava_callback": ("get", ACTING),
    "integrations:strava_disconnect": ("post", ACTING),
    "integrations:strava_preferences": ("post", ACTING),
    "integrations:strava_gear_sync": ("post", ACTING),
    "integrations:strava_webhook": ("post", (400,) * 6),
    # No app of the site is set up there, so they lead back to the page.
    **{
        f"integrations:{name}_{step}": ("get" if step == "callback" else "post", ACTING)
        for name in ("polar", "wahoo", "intervals")
        for step in ("connect", "callback", "disconnect")
    },
    "integrations:garminconnect_connect": ("post", ACTING),
    "integrations:garminconnect_mfa": ("post", ACTING),
    "integrations:garminconnect_cancel": ("post", ACTING),
    "integrations:garminconnect_disconnect": ("post", ACTING),
    "integrations:garminconnect_preferences": ("post", ACTING),
    "integrations:garminconnect_gear_sync": ("post", ACTING),
    "healthz": ("get", OPEN),
    "password_change": ("get", EVERYBODY),
    "password_reset": ("get", OPEN),
    "admin:integrations_usersintegrations_changelist": ("get", SEEING),
    "admin:integrations_usersintegrations_change": ("get", SEEING),
    "admin:integrations_usersintegrations_history": ("get", SEEING),
    "admin:integrations_usersintegrations_add": ("get", NOBODY),
    "admin:integrations_usersintegrations_delete": ("get", ("login", "login", 403, 403, 403, "ok")),
    "admin:integrations_gear_changelist": ("get", SEEING),
    "admin:integrations_gear_change": ("get", SEEING),
    "admin:integrations_gear_history": ("get", SEEING),
    "admin:integrations_gear_add": ("get", NOBODY),
    "admin:integrations_gear_delete": ("get", NOBODY),
    "admin:integrations_linkevent_changelist": ("get", SEEING),
    "admin:integrations_linkevent_change": ("get", SEEING),
    "admin:integrations_linkevent_history": ("get", SEEING),
    "admin:integrations_linkevent_add": ("get", NOBODY),
    "admin:integrations_linkevent_delete": ("get", NOBODY),
}
# Django's own, and what has no name of its own.
ELSEWHERE = {"login", "logout", "metrics", "password_reset_confirm"}
PEOPLE = ("nobody", "athlete", "staff", "viewer", "changer", "superuser")
MODELS = {"usersintegrations": UsersIntegrations, "gear": Gear, "linkevent": LinkEvent}


@pytest.fixture
def clients(db):
    """A browser for each kind of person."""
    users = get_user_model().objects
    made = {"nobody": Client()}
    for name in PEOPLE[1:]:
        user = users.create_user(
            name,
            password="pw",
            is_staff=name != "athlete",
            is_superuser=name == "superuser",
        )
        for action in {"viewer": ["view"], "changer": ["view", "change"]}.get(name, []):
            for model in MODELS:
                user.user_permissions.add(Permission.objects.get(codename=f"{action}_{model}"))
        made[name] = Client()
        made[name].force_login(user)
    return made


def answer(response):
    if response.status_code == 302:
        location = response["Location"]
        if "/login/" in location:
            return "login"
        if location == reverse("integrations:settings"):
            return "page"
        return "strava" if "/oauth/authorize" in location else location
    return "ok" if response.status_code == 200 else response.status_code


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_answers_each_as_it_should(alice, linked, strava, clients, name):
    method, expected = VIEWS[name]
    services.sync_strava_gear(alice.pk)
    before = list(UsersIntegrations.objects.filter(user=alice).values())
    args = []
    if name.startswith("admin:") and name.endswith(("_change", "_delete", "_history")):
        args = [MODELS[name.split("_")[1]].objects.first().pk]
    url = reverse(name, args=args)

    got = {who: answer(getattr(clients[who], method)(url)) for who in PEOPLE}

    assert got == dict(zip(PEOPLE, expected, strict=True))
    # whoever it was, Alice's link is as it was
    assert list(UsersIntegrations.objects.filter(user=alice).values()) == before


def names_of(patterns, namespace=""):
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            inner = f"{pattern.namespace}:" if pattern.namespace else ""
            yield from names_of(pattern.url_patterns, namespace + inner)
        elif isinstance(pattern, URLPattern) and pattern.name:
            yield namespace + pattern.name


def test_no_view_is_missing_from_the_table():
    ours = {
        name
        for name in names_of(get_resolver().url_patterns)
        if not name.startswith("admin:") or "integrations_" in name
    }
    assert ours - ELSEWHERE == set(VIEWS)
