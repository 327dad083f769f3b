"""From login to disconnect in a real browser, on origins that are foreign to each other."""

from __future__ import annotations

import pytest

from integrations.models import LinkStatus
from integrations.models.integrations import STRAVA
from integrations.sandbox.strava import OTHER_CLIENT_ID, OTHER_CLIENT_SECRET

from ..conftest import row_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(live_server, strava, sandbox, settings, page):
    """The site's address. Strava's stand-in is another *site*, as the real one is: 127.0.0.1
    against localhost, so that cookies are tested as they will be sent.
    """
    settings.STRAVA_OAUTH_URL = f"http://127.0.0.1:{sandbox.port}/oauth"
    # The middleware took the policy when the site started; name the sandbox's port now.
    settings.SECURE_CSP = {
        **settings.SECURE_CSP,
        "form-action": ["'self'", f"http://127.0.0.1:{sandbox.port}"],
    }
    return live_server.url.replace("127.0.0.1", "localhost")


def status(page):
    return page.locator('[data-provider="strava"]').get_attribute("data-status")


def arrive(page):
    """Wait for the settings page itself: the login page has its address in the query."""
    page.locator('[data-provider="strava"]').wait_for()


def log_in(page, site):
    page.goto(f"{site}/")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("alice-demo")
    page.get_by_role("button", name="Sign in").click()
    arrive(page)


def connect(page):
    page.get_by_role("button", name="Connect with Strava").first.click()
    page.wait_for_url("**/oauth/authorize**")


def test_from_login_to_disconnect(alice, strava, site, page, complaints, assert_accessible):
    page.goto(f"{site}/")
    assert_accessible()
    log_in(page, site)
    assert status(page) == "not_linked"
    assert_accessible()

    connect(page)
    page.get_by_role("button", name="Authorize").click()
    arrive(page)

    assert status(page) == "linked"
    assert page.get_by_text("Strava is connected.").is_visible()
    assert page.get_by_text("See your public profile").is_visible()
    assert "code=" not in page.url
    assert "state=" not in page.url
    assert_accessible()
    assert row_of(alice).strava_status == LinkStatus.LINKED

    page.get_by_role("button", name="Disconnect Strava").click()
    assert_accessible()
    page.get_by_role("dialog").get_by_role("button", name="No, keep it").click()
    assert row_of(alice).strava_status == LinkStatus.LINKED
    page.get_by_role("button", name="Disconnect Strava").press("Space")
    page.get_by_role("dialog").get_by_role("button", name="Yes, disconnect").click()
    page.get_by_text("Strava is disconnected.").wait_for()

    assert status(page) == "not_linked"
    assert strava.counts()["access_tokens"] == 0
    assert_accessible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/accounts/login/")
    assert complaints == []


def test_saying_no_at_strava(strava, alice, site, page, complaints):
    log_in(page, site)
    connect(page)
    page.get_by_role("button", name="Cancel").click()
    arrive(page)

    assert page.get_by_text("You chose not to give access at Strava").is_visible()
    assert status(page) == "not_linked"
    assert complaints == []


def test_unchecking_a_permission(alice, strava, site, page, assert_accessible):
    log_in(page, site)
    connect(page)
    page.locator('input[type="checkbox"][value="profile:read_all"]').uncheck()
    page.get_by_role("button", name="Authorize").click()
    arrive(page)

    assert page.get_by_text("gear will not sync").first.is_visible()
    assert STRAVA.scopes(row_of(alice)) == ["read"]
    assert_accessible()


def test_pasting_an_app_of_ones_own(alice, strava, site, page, settings, assert_accessible):
    settings.STRAVA_CLIENT_ID = settings.STRAVA_CLIENT_SECRET = ""
    log_in(page, site)
    assert page.locator("code", has_text="localhost").is_visible()
    page.get_by_label("Client ID").fill(OTHER_CLIENT_ID)
    page.get_by_label("Client Secret").fill(OTHER_CLIENT_SECRET)
    assert_accessible()
    connect(page)
    page.get_by_role("button", name="Authorize").click()
    arrive(page)

    assert status(page) == "linked"
    assert row_of(alice).strava_client_secret == OTHER_CLIENT_SECRET
    assert OTHER_CLIENT_SECRET not in page.content()


def test_everything_works_without_javascript_and_with_the_keyboard_alone(
    alice, strava, site, browser, page
):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()

    def press_until_focused(text):
        for _ in range(30):
            page.keyboard.press("Tab")
            if text in page.evaluate("document.activeElement.innerText || ''"):
                return
        pytest.fail(f"{text} is out of the keyboard's reach")

    page.goto(f"{site}/")
    page.get_by_label("Username").focus()
    page.keyboard.type("alice")
    page.keyboard.press("Tab")
    page.keyboard.type("alice-demo")
    page.keyboard.press("Enter")
    arrive(page)
    press_until_focused("Connect with Strava")
    page.keyboard.press("Enter")
    page.wait_for_url("**/oauth/authorize**")
    press_until_focused("Authorize")
    page.keyboard.press("Enter")
    arrive(page)
    assert status(page) == "linked"
    press_until_focused("Disconnect")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Disconnect Strava?").wait_for()
    press_until_focused("Yes, disconnect")
    page.keyboard.press("Enter")
    page.get_by_text("Strava is disconnected.").wait_for()
    assert status(page) == "not_linked"
    context.close()
