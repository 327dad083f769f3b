"""To the providers with the common card, in a real browser, on origins that are foreign to each
other."""

from __future__ import annotations

import pytest

from integrations.models import Link

pytestmark = pytest.mark.django_db(transaction=True)

LABELS = {"polar": "Polar", "wahoo": "Wahoo", "intervals": "Intervals.icu"}


@pytest.fixture(params=list(LABELS))
def provider(request, sandbox, settings):
    """A provider at which the site has an app. Its stand-in is another *site*, as the real one is:
    127.0.0.1 against localhost."""
    stand_in = request.getfixturevalue(request.param)
    # The middleware took the policy when the site started; name the sandbox's port now.
    settings.SECURE_CSP = {**settings.SECURE_CSP, "form-action": ["'self'", sandbox.url]}
    return stand_in


@pytest.fixture
def site(live_server):
    return live_server.url.replace("127.0.0.1", "localhost")


@pytest.fixture
def card(provider, page):
    return page.locator(f'[data-provider="{provider.name}"]')


def log_in(page, site):
    page.goto(f"{site}/")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("alice-demo")
    page.get_by_role("button", name="Sign in").click()


def test_from_no_to_yes_to_disconnect(
    alice, provider, site, page, card, complaints, assert_accessible
):
    label = LABELS[provider.name]
    status = f'[data-provider="{provider.name}"][data-status="%s"]'
    log_in(page, site)
    page.locator(status % "not_linked").wait_for()

    card.get_by_role("button", name=f"Connect with {label}").click()
    page.get_by_role("button", name="Cancel").click()
    card.get_by_role("alert").wait_for()
    assert f"You chose not to give access at {label}" in card.get_by_role("alert").inner_text()
    assert page.locator(status % "not_linked").count() == 1
    assert page.title().startswith("Error: ")

    card.get_by_role("button", name=f"Connect with {label}").click()
    page.get_by_role("button", name="Authorize").click()
    page.get_by_text(f"{label} is connected.").wait_for()
    assert page.locator(status % "linked").count() == 1
    assert card.get_by_role("alert").count() == 0
    assert card.get_by_text("Alice Archer").is_visible()
    assert "code=" not in page.url
    assert "state=" not in page.url
    assert_accessible()
    first = Link.objects.get(user=alice, provider=provider.name)
    assert provider.is_alive(first.token)

    card.get_by_text("Change permissions or reconnect").click()
    card.get_by_role("button", name=f"Reconnect {label}").click()
    page.get_by_role("button", name="Authorize").click()
    page.get_by_text(f"{label} is connected.").wait_for()
    link = Link.objects.get(user=alice, provider=provider.name)
    assert page.locator(status % "linked").count() == 1
    assert link.token != first.token
    assert provider.is_alive(link.token)

    card.get_by_role("button", name=f"Disconnect {label}").click()
    page.get_by_role("dialog").get_by_role("button", name="No, keep it").click()
    card.get_by_role("button", name=f"Disconnect {label}").click()
    page.get_by_role("dialog").get_by_role("button", name="Yes, disconnect").click()
    page.get_by_text(f"{label} is disconnected.").wait_for()
    assert page.locator(status % "not_linked").count() == 1
    assert provider.counts()["access_tokens"] == 0
    assert complaints == []


def test_disconnecting_without_javascript_asks_on_a_page_of_its_own(alice, provider, site, browser):
    label = LABELS[provider.name]
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, site)
    page.get_by_role("button", name=f"Connect with {label}").click()
    page.get_by_role("button", name="Authorize").click()
    page.get_by_role("link", name=f"Disconnect {label}").click()
    page.get_by_role("heading", name=f"Disconnect {label}?").wait_for()
    page.get_by_role("button", name="Yes, disconnect").click()
    page.get_by_text(f"{label} is disconnected.").wait_for()
    assert provider.counts()["access_tokens"] == 0
    context.close()
