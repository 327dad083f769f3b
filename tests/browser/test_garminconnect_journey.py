"""Signing in to Garmin with a code, in a real browser, at a site with a worker beside it."""

from __future__ import annotations

import pytest

from integrations.models import LinkStatus
from integrations.sandbox.garmin import ALICE, MFA, MFA_CODE, PASSWORD

from ..conftest import row_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def card(page):
    return page.locator('[data-provider="garminconnect"]')


def sign_in(page, card, email, password=PASSWORD):
    card.get_by_label("Garmin e-mail address").fill(email)
    card.get_by_label("Garmin password").fill(password)
    card.get_by_role("button", name="Connect").click()


def wait_for(page, status):
    page.locator(f'[data-provider="garminconnect"][data-status="{status}"]').wait_for(
        timeout=60_000
    )


def test_signing_in_with_a_code_and_leaving(
    alice, garmin, site, page, card, complaints, assert_accessible
):
    page.goto(f"{site.url}/settings/integrations/")
    wait_for(page, "not_linked")
    assert_accessible()

    sign_in(page, card, MFA)
    wait_for(page, "linking")
    assert_accessible()
    wait_for(page, "mfa_required")  # by itself
    assert_accessible()
    assert PASSWORD not in page.content()

    card.get_by_label("Code from Garmin").fill("999999")
    page.keyboard.press("Enter")
    card.get_by_text("did not accept this code").wait_for(timeout=60_000)
    assert_accessible()
    card.get_by_label("Code from Garmin").fill(f"{MFA_CODE[:3]} {MFA_CODE[3:]}")
    page.keyboard.press("Enter")
    wait_for(page, "linked")
    assert_accessible()
    assert row_of(alice).garminconnect_status == LinkStatus.LINKED

    card.get_by_role("button", name="Disconnect").click()
    page.get_by_role("dialog").get_by_role("button", name="Yes, disconnect").click()
    wait_for(page, "not_linked")
    assert page.get_by_text("the stored session is deleted").first.is_visible()
    assert complaints == []


def test_a_wrong_password_and_a_cancel(alice, garmin, site, page, card, assert_accessible):
    page.goto(f"{site.url}/settings/integrations/")
    sign_in(page, card, ALICE, "wrong")
    card.get_by_text("did not accept this e-mail and password").wait_for(timeout=60_000)
    wait_for(page, "not_linked")
    assert_accessible()

    garmin.fail("mobile_page", "silence", seconds=30)
    sign_in(page, card, ALICE)
    wait_for(page, "linking")
    card.get_by_role("button", name="Cancel").click()
    wait_for(page, "not_linked")
    assert garmin.attempts[ALICE] == 1


def test_without_javascript_the_page_moves_on_too(alice, garmin, site, browser, page):
    context = browser.new_context(java_script_enabled=False)
    context.add_cookies(page.context.cookies())
    page = context.new_page()
    page.goto(f"{site.url}/settings/integrations/")
    sign_in(page, page.locator('[data-provider="garminconnect"]'), ALICE)
    wait_for(page, "linking")
    wait_for(page, "linked")
    context.close()
