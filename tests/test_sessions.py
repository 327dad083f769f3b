"""Whoever has a copy of the database cannot sign in with it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends import db as djangos
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from project import schedule
from project.sessions import SessionStore

PAGE = "/settings/integrations/"

pytestmark = pytest.mark.django_db


def with_session(key):
    client = Client()
    client.cookies["sessionid"] = key
    return client


def test_no_value_of_the_table_is_a_session(alice, alice_client):
    assert alice_client.get(PAGE).status_code == 200
    cookie = alice_client.cookies["sessionid"].value
    [row] = Session.objects.values()
    assert all(cookie not in str(value) for value in row.values())

    for stolen in row.values():
        response = with_session(str(stolen)).get(PAGE)
        assert response["Location"].startswith("/accounts/login/"), stolen
    assert with_session(cookie).get(PAGE).status_code == 200


def test_nor_is_one_of_a_copy_from_before_this_release(alice, alice_client):
    before = djangos.SessionStore()
    before.update(dict(alice_client.session.items()))
    before.save()
    assert Session.objects.filter(session_key=before.session_key).exists()
    assert with_session(before.session_key).get(PAGE).status_code == 302


def test_a_session_s_whole_life():
    session = SessionStore()
    session["a"] = 1
    session.save()
    first = session.session_key
    assert session.exists(first)
    assert SessionStore(first)["a"] == 1
    [row] = Session.objects.all()
    assert row.session_key != first
    assert row.get_decoded() == {"a": 1}

    again = SessionStore(first)
    again["b"] = 2
    again.save()
    again.cycle_key()
    assert not session.exists(first)
    assert dict(SessionStore(again.session_key).items()) == {"a": 1, "b": 2}
    assert Session.objects.count() == 1

    gone = SessionStore(first)
    assert not gone.keys()
    assert gone.session_key is None  # nobody chooses a new session's key

    with pytest.raises(UpdateError):  # a log-out meanwhile is not undone
        session.save()
    SessionStore().delete()
    assert Session.objects.count() == 1
    again.delete()
    assert not Session.objects.exists()
    again.flush()
    assert again.session_key is None


@async_to_sync
async def its_life_in_an_async_view():
    session = SessionStore()
    await session.aset("a", 1)
    await session.asave()
    first = session.session_key
    assert await session.aexists(first)
    assert await SessionStore(first).aget("a") == 1
    assert not await SessionStore((await Session.objects.aget()).session_key).akeys()

    again = SessionStore(first)
    await again.aset("b", 2)
    await again.asave()
    await again.acycle_key()
    assert not await session.aexists(first)
    assert dict(await SessionStore(again.session_key).aitems()) == {"a": 1, "b": 2}
    with pytest.raises(UpdateError):
        await session.asave()
    await SessionStore().adelete()
    assert await Session.objects.acount() == 1
    await again.aflush()
    assert await Session.objects.acount() == 0


def test_its_life_in_an_async_view():
    its_life_in_an_async_view()


def test_the_clock_deletes_dead_sessions(alice_client):
    dead = SessionStore()
    dead["a"] = 1
    dead.set_expiry(timezone.now() - timedelta(seconds=1))
    dead.save()
    assert not SessionStore(dead.session_key).keys()
    assert Session.objects.count() == 2
    [job] = [job for job in schedule.jobs() if job.name == "forget_dead_sessions"]
    job.run()
    assert alice_client.get(PAGE).status_code == 200
    assert Session.objects.count() == 1
