"""What staff see of a link and can do with it, whichever provider's it is."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from integrations import services
from integrations.fields import EncryptedTextField, Internal
from integrations.models import Link, LinkStatus, UsersIntegrations

LIST = "admin:integrations_usersintegrations_changelist"


@pytest.fixture
def admin(db):
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", "r@example.com", "pw"))
    return client


def test_staff_see_and_filter_links(kit, alice, bob, admin, linked):
    services.create_user_integrations(bob.pk)
    page = admin.get(reverse(LIST))
    assert "Connected" in page.content.decode()
    row = UsersIntegrations.objects.get(user=alice)
    detail = admin.get(reverse("admin:integrations_usersintegrations_change", args=[row.pk]))
    assert detail.status_code == 200
    text = detail.content.decode()
    for words in (kit.provider.label, str(kit.alice), ", ".join(kit.provider.requested_scopes())):
        assert words in text

    def found(**query):
        listed = admin.get(reverse(LIST), query)
        assert listed.status_code == 200
        return [each.user for each in listed.context["cl"].result_list]

    assert found(**{kit.name: "linked"}) == [alice]
    assert found(**{kit.name: "not_linked"}) == [bob]
    assert found(**{kit.name: "relink_required"}) == []
    kit.end(alice)
    assert found(**{kit.name: "linked"}) == []
    assert found(**{kit.name: "relink_required"}) == [alice]
    assert found(q="alice@example.com") == [alice]


def test_staff_can_filter_by_a_tokens_age(renewing, alice, admin):
    renewing.link(alice)
    for age, count in (("fresh", 1), ("expired", 0)):
        listed = admin.get(reverse(LIST), {f"{renewing.name}_token_age": age})
        assert len(listed.context["cl"].result_list) == count
    renewing.lapse(alice)
    listed = admin.get(reverse(LIST), {f"{renewing.name}_token_age": "expired"})
    assert len(listed.context["cl"].result_list) == 1


def test_staff_can_refresh_and_disconnect(kit, alice, admin, linked):
    row = UsersIntegrations.objects.get(user=alice)
    chosen = {"_selected_action": [row.pk]}
    calls = kit.stand_in.calls[kit.asked_at]
    page = admin.post(reverse(LIST), chosen | {"action": f"refresh_{kit.name}"}, follow=True)
    assert "1 token refreshed." in page.content.decode()
    assert kit.stand_in.calls[kit.asked_at] == calls + 1

    disconnect = chosen | {"action": f"disconnect_{kit.name}"}
    page = admin.post(reverse(LIST), disconnect, follow=True)
    assert kit.provider.label in page.content.decode()  # it asks first
    assert kit.stand_in.revocations == 0
    page = admin.post(reverse(LIST), disconnect | {"confirmed": "yes"}, follow=True)
    assert "1 athlete disconnected." in page.content.decode()
    assert kit.stand_in.revocations == 1
    assert kit.status(alice) == LinkStatus.NOT_LINKED


def test_what_is_secret_or_internal_cannot_be_asked_for(kit, alice, alice_client, admin, linked):
    """Not even through another table, one letter after the other."""
    kit.begin(alice_client)
    names = [
        kit.home.column(name)
        for name, field in kit.home.fields.items()
        if isinstance(field, EncryptedTextField | Internal)
    ]
    assert len(names) >= 8
    way = "" if kit.home.model is UsersIntegrations else "user__integrations_links__"
    lists = {
        LIST: way,
        "admin:integrations_linkevent_changelist": (way or "user__users_integrations__"),
        "admin:auth_user_changelist": (way or "users_integrations__").removeprefix("user__"),
    }
    for url, prefix in lists.items():
        for name in names:
            for comparison in ("", "__startswith"):
                query = {f"{prefix}{name}{comparison}": "1"}
                assert admin.get(reverse(url), query).status_code == 400, (url, query)


def test_the_list_costs_no_query_for_each_row(kit, admin, django_assert_max_num_queries):
    users = get_user_model().objects.bulk_create(
        get_user_model()(username=f"user{number}") for number in range(30)
    )
    UsersIntegrations.objects.bulk_create(UsersIntegrations(user=user) for user in users)
    if kit.home.where:
        Link.objects.bulk_create(
            Link(user=user, provider=kit.name, token="t", account_id=str(user.pk)) for user in users
        )
    with django_assert_max_num_queries(10):
        admin.get(reverse(LIST))
