"""Gear on the settings page, in a real browser, at a site with a worker beside it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect

from integrations import services
from integrations.models import UsersIntegrations
from integrations.sandbox.garmin import ALICE as GARMIN_ALICE
from integrations.sandbox.strava import ALICE, BJORN

from ..conftest import row_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def linked_site(alice, link, site, garmin):
    """Strava and Garmin Connect are linked; nothing has been synced."""
    link(alice)
    services.link_garminconnect_account(alice.pk, None, garmin.issue_session(GARMIN_ALICE))
    return site


@pytest.fixture
def gear(page):
    page.set_default_timeout(60_000)
    return page.get_by_role("group", name="Strava Gear")


def test_switching_gear_on_and_syncing_again(
    alice, strava, linked_site, page, gear, complaints, assert_accessible
):
    strava.athletes[ALICE].shoes[0]["retired"] = True
    page.goto(f"{linked_site.url}/settings/integrations/")
    assert gear.get_by_text("Not synced yet").is_visible()
    assert gear.get_by_role("listitem").count() == 0
    assert_accessible()

    gear.get_by_role("switch", name="Keep my gear in sync with Strava").focus()
    page.keyboard.press("Space")
    gear.get_by_text("4,217 km").wait_for()  # by itself
    assert gear.get_by_role("switch").is_checked()
    assert row_of(alice).strava_sync_gear
    assert gear.get_by_role("listitem").count() == 3
    assert gear.get_by_text("Primary").count() == 1
    assert gear.get_by_text("just now").is_visible()
    assert gear.get_by_text("Trainers").is_hidden()
    gear.get_by_text("Retired gear (1)").click()
    assert gear.get_by_text("Trainers").is_visible()
    assert_accessible()

    strava.athletes[ALICE].bikes[0]["distance"] = 4_318_000.0
    gear.get_by_role("button", name="Sync now").click()
    gear.get_by_text("4,318 km").wait_for()

    gear.get_by_role("switch").click()
    gear.get_by_text("Off:").wait_for()
    assert not row_of(alice).strava_sync_gear
    assert gear.get_by_text("4,318 km").is_visible()
    assert complaints == []


def test_a_sync_that_fails_says_why(
    alice, strava, linked_site, page, gear, complaints, assert_accessible
):
    strava.fail("athlete", "500", times=1)
    page.goto(f"{linked_site.url}/settings/integrations/")
    gear.get_by_role("button", name="Sync now").click()
    page.get_by_role("alert").get_by_text("Strava could not be reached").wait_for()
    assert page.get_by_text("Strava could not be reached").count() == 1  # not with the gear, too
    assert_accessible()

    gear.get_by_role("button", name="Sync now").click()
    gear.get_by_text("Road bike").wait_for()
    assert page.get_by_role("alert").count() == 0
    page.get_by_text("Your gear is synced.").locator("visible=true").first.wait_for()
    # A page that was loaded after a quick worker has nothing to announce.
    if gear.get_by_text("Your gear is synced.").is_visible():
        expect(page).to_have_title(re.compile("^Your gear is synced."))
    assert complaints == []


def test_without_javascript_and_with_names_that_are_anything(
    alice, strava, linked_site, browser, page
):
    strava.athletes[ALICE].bikes = strava.athletes[BJORN].bikes
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(60_000)
    context.add_cookies(page.context.cookies())
    page = context.new_page()
    page.goto(f"{linked_site.url}/settings/integrations/")

    gear = page.get_by_role("group", name="Garmin Connect Gear")
    gear.get_by_role("switch").check()
    gear.get_by_role("button", name="Save").click()
    gear.get_by_text("Touring skis").wait_for()

    gear = page.get_by_role("group", name="Strava Gear")
    gear.get_by_role("button", name="Sync now").click()
    gear.get_by_text("<b>Bold</b> & \"quoted\" 'bike'").wait_for()
    context.close()


def test_times_are_the_readers_and_paper_and_rtl_keep_what_is_told(
    alice, strava, linked_site, browser, page
):
    services.sync_strava_gear(alice.pk)
    moment = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)
    UsersIntegrations.objects.update(strava_synced_at=moment, strava_sync_gear=True)
    context = browser.new_context(timezone_id="Asia/Kolkata", locale="en-US")
    context.add_cookies(page.context.cookies())
    page = context.new_page()
    page.goto(f"{linked_site.url}/settings/integrations/")
    gear = page.get_by_role("group", name="Strava Gear")

    time = gear.locator("time").first
    assert time.get_attribute("datetime") == "2026-03-01T20:30:00+00:00"
    assert "Mar 2, 2026" in time.inner_text()  # it is 2 a.m. there

    page.emulate_media(media="print")
    for selector in (".icon-bike", "input[role=switch]"):
        adjust = "getComputedStyle(e).printColorAdjust"
        assert gear.locator(selector).first.evaluate(f"e => {adjust}") == "exact", selector
    assert gear.get_by_role("switch").evaluate("e => getComputedStyle(e).display") != "none"

    page.evaluate("document.documentElement.dir = 'rtl'")
    left_of = """([first, second]) => {
        const at = (text) => {
            for (const node of document.querySelectorAll('#strava-gear bdi')) {
                const start = node.firstChild.data.indexOf(text);
                if (start < 0) continue;
                const range = document.createRange();
                range.setStart(node.firstChild, start);
                range.setEnd(node.firstChild, start + text.length);
                return range.getBoundingClientRect().left;
            }
        };
        return at(first) < at(second);
    }"""
    assert page.evaluate(left_of, ["4,217", "km"])
    assert page.evaluate(left_of, ["Canyonesque", "Endura"])
    context.close()
