"""Brokers and caches that take a connection and then say nothing: a press ends all the same."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import celery
import pytest
import requests
from django.contrib.auth import get_user_model

from integrations import tasks
from integrations.models import GarminConnectAttempt, GarminConnectLogin

from .processes import Athlete, Site, wait_until
from .silence import PUBLISH, Silence
from .test_proxy import Browser, carol  # noqa: F401
from .test_task_backends import CONNECT, RABBITMQ_URL, queue  # noqa: F401

# Seconds: five are promised, and a machine that runs tests is busy. Without a bound it is for ever.
WITHIN = 8


FORM = {"email": "alice@example.com", "password": "s3cret"}
JSON = {"accept": "application/json"}

host_s_own = celery.Celery("host")


def timed(press):
    start = time.monotonic()
    return press(), time.monotonic() - start


def page(site):
    return requests.get(f"{site.url}/accounts/login/", timeout=60).status_code


@pytest.fixture
def start(db, sandbox):
    sites = []

    def start(**env):
        site = Site(INTEGRATIONS_SANDBOX="on", INTEGRATIONS_SANDBOX_URL=sandbox.url, **env)
        sites.append(site)
        site.web(workers=1, ready="/accounts/login/")
        return site

    yield start
    for site in sites:
        site.stop()


def athletes(site, count):
    users = [get_user_model().objects.create_user(f"user{n}") for n in range(count)]
    return [Athlete(site, user) for user in users]


def press(athlete):
    return athlete.post(
        CONNECT, email=f"{athlete.session.cookies['sessionid']}@x.org", password="p"
    )


def twelve_presses_and_a_page(site):
    """Twelve athletes press at once, and somebody opens a page; then one of them goes on."""
    pressing = athletes(site, 12)
    with ThreadPoolExecutor(13) as pool:
        presses = [pool.submit(timed, lambda each=each: press(each)) for each in pressing]
        time.sleep(0.5)
        status, page_took = pool.submit(timed, lambda: page(site)).result()
        answers = [each.result() for each in presses]
    assert status == 200
    assert max(page_took, *(took for _answer, took in answers)) < WITHIN
    for answer, _took in answers:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "task_queue_unavailable"
    for _ in range(6):
        answer, took = timed(lambda: press(pressing[0]))
        assert (answer.status_code, took < WITHIN) == (503, True)
    assert not GarminConnectLogin.objects.exists()
    assert not GarminConnectAttempt.objects.exists()
    return pressing[0]


@pytest.mark.django_db(transaction=True)
def test_a_memory_alarm_ends_every_press_and_counts_no_attempt(start, queue):  # noqa: F811
    rabbitmq = urlsplit(RABBITMQ_URL)
    with Silence((rabbitmq.hostname, rabbitmq.port or 5672), PUBLISH) as broker:
        at_the_proxy = rabbitmq._replace(
            netloc=f"{rabbitmq.netloc.rpartition('@')[0]}@127.0.0.1:{broker.port}"
        )
        site = start(**queue.env | {"CELERY_BROKER_URL": at_the_proxy.geturl()})
        athlete = twelve_presses_and_a_page(site)
        broker.recover()
        wait_until(lambda: press(athlete).status_code == 202, 30, 0.5)
    taken = str(GarminConnectLogin.objects.get().attempt)
    # What was withdrawn may come as well, and finds nothing.
    wait_until(lambda: queue.get().payload[0][1] == taken)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_host_s_own_celery_holds_no_press_either(alice, alice_client, settings, scheme):
    """Whatever its settings leave without a bound: here all."""
    settings.TASKS = {
        "default": {
            "BACKEND": "django_tasks_celery.CeleryBackend",
            "OPTIONS": {"CELERY_APP": "tests.test_silence.host_s_own"},
        }
    }
    with Silence() as broker:
        url = f"{scheme}://127.0.0.1:{broker.port}//"
        host_s_own.conf.update(broker_url=url, broker_connection_timeout=None)
        for most in (WITHIN, 1, 1, 1, 1, 1):  # the later ones know it to be silent
            answer, took = timed(lambda: alice_client.post(CONNECT, FORM, headers=JSON))
            assert (answer.status_code, took < most) == (503, True)
    assert not GarminConnectLogin.objects.exists()
    assert not GarminConnectAttempt.objects.exists()
    wait_until(lambda: not any(thread.is_alive() for thread in tasks._late))


@pytest.mark.django_db(transaction=True)
def test_a_silent_redis_holds_up_no_log_in_and_no_press(start, carol):  # noqa: F811
    """As cache, as broker, and as the store of sessions."""
    with Silence() as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        site = start(TASKS_BACKEND="celery", CELERY_BROKER_URL=url, CACHE_URL=url)
        browser = Browser(site, "localhost")
        (_page, logged_in), took = timed(lambda: browser.log_in("/accounts/login/"))
        assert logged_in.status == 302
        assert took < WITHIN
        (athlete,) = athletes(site, 1)
        answer, took = timed(lambda: press(athlete))
        assert (answer.status_code, took < WITHIN) == (503, True)
