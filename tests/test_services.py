"""The seed's API, function by function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from pydantic import ValidationError

from integrations import services
from integrations.exceptions import (
    AthleteAlreadyLinked,
    IntegrationsAlreadyExist,
    IntegrationsError,
    IntegrationsNotFound,
    InvalidProviderReply,
    StravaNotLinked,
)
from integrations.models import LinkEvent, UsersIntegrations
from integrations.schemas import (
    UsersIntegrationsBase,
    UsersIntegrationsCreate,
    UsersIntegrationsRead,
    UsersIntegrationsUpdate,
)
from integrations.signals import account_linked, account_unlinked

from .conftest import row_of

TOKENS = {
    "token_type": "Bearer",
    "access_token": "access-1",
    "refresh_token": "refresh-1",
    "expires_at": 1_900_000_000,
    "expires_in": 21600,
}


@pytest.fixture
def row(alice):
    return services.create_user_integrations(alice.pk)


@pytest.fixture
def heard():
    """Every signal that is sent, as (name, user_id, provider)."""
    events = []

    def listen(name):
        def receiver(sender, signal, user_id, provider, **rest):
            assert sender is UsersIntegrations
            assert not rest
            events.append((name, user_id, provider))

        return receiver

    receivers = [(account_linked, listen("linked")), (account_unlinked, listen("unlinked"))]
    for signal, receiver in receivers:
        signal.connect(receiver)
    yield events
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def test_a_row_starts_with_defaults_only(alice):
    row = services.create_user_integrations(alice.pk)

    values = UsersIntegrationsRead.model_validate(row).model_dump()
    assert values.pop("id") == row.pk
    assert values.pop("user_id") == alice.pk
    assert values.pop("strava_sync_gear") is False
    assert values.pop("garminconnect_sync_gear") is False
    assert set(values.values()) == {None}
    assert len(values) == 8


def test_a_user_has_one_row(alice, row):
    with pytest.raises(IntegrationsAlreadyExist) as caught:
        services.create_user_integrations(alice.pk)

    assert caught.value.status_code == 409
    assert UsersIntegrations.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_nobody_has_no_row():
    with pytest.raises(IntegrationsError):
        services.create_user_integrations(999)
    assert not UsersIntegrations.objects.exists()


def test_a_row_is_found_by_its_user(alice, row):
    assert services.get_user_integrations_by_user_id(alice.pk) == row


def test_a_row_is_found_by_its_state(alice, row):
    services.set_user_strava_state(alice.pk, "state-1")

    assert services.get_user_integrations_by_strava_state("state-1") == row
    assert services.get_user_integrations_by_strava_state("state-2") is None


@pytest.mark.parametrize("state", [None, "", "\0", "null"])
def test_an_empty_state_matches_nobody(alice, row, state):
    assert services.get_user_integrations_by_strava_state(state) is None


@pytest.mark.parametrize("state", [None, "null", ""])
def test_a_state_is_cleared(alice, row, state):
    services.set_user_strava_state(alice.pk, "state-1")

    services.set_user_strava_state(alice.pk, state)

    assert row_of(alice).strava_state is None
    assert row_of(alice).strava_state_expires_at is None


def test_two_rows_cannot_share_a_state(alice, bob, row):
    services.create_user_integrations(bob.pk)
    services.set_user_strava_state(alice.pk, "state-1")

    with pytest.raises(IntegrationsError) as caught:
        services.set_user_strava_state(bob.pk, "state-1")

    assert caught.value.status_code == 500
    assert "state-1" not in str(caught.value)
    assert "UNIQUE" not in str(caught.value)


def test_the_look_up_by_state_uses_the_partial_index(alice, row):
    plan = UsersIntegrations.objects.filter(strava_state="state-1").explain()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")  # one row is quicker without it
        plan = UsersIntegrations.objects.filter(strava_state="state-1").explain()
    assert "users_integrations_strava_state" in plan


def test_only_the_fields_that_were_set_are_edited(alice, row):
    services.set_user_strava_client(alice.pk, "10", "secret")

    edited = services.edit_user_integrations(
        UsersIntegrationsUpdate(strava_token="token", strava_sync_gear=True), alice.pk
    )

    assert edited.strava_token == "token"
    assert edited.strava_sync_gear is True
    assert (edited.strava_client_id, edited.strava_client_secret) == ("10", "secret")


@pytest.mark.django_db
@pytest.mark.parametrize("user_id", [0, -1, 2**63, 10**30], ids=str)
def test_a_number_that_no_user_can_have_is_not_found(user_id):
    with pytest.raises(IntegrationsNotFound):
        services.get_user_integrations_by_user_id(user_id)
    with pytest.raises(StravaNotLinked):
        services.get_strava_access_token(user_id)


def test_an_edit_without_fields_writes_nothing(alice, row):
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert services.edit_user_integrations(UsersIntegrationsUpdate(), alice.pk) == row
    assert len(queries) == 1


def test_an_edit_can_clear_a_field(alice, row):
    services.set_user_strava_client(alice.pk, "10", "secret")

    services.edit_user_integrations(UsersIntegrationsUpdate(strava_client_id=None), alice.pk)

    assert row_of(alice).strava_client_id is None
    assert row_of(alice).strava_client_secret == "secret"


def test_linking_stores_the_pair_and_clears_the_state(alice, row):
    services.set_user_strava_state(alice.pk, "state-1")

    services.link_strava_account(row, TOKENS)

    stored = row_of(alice)
    assert stored.strava_token == "access-1"
    assert stored.strava_refresh_token == "refresh-1"
    assert stored.strava_token_expires_at == datetime.fromtimestamp(1_900_000_000, tz=UTC)
    assert stored.strava_state is None
    assert row.strava_token == "access-1"
    assert row.strava_state is None


def test_linking_remembers_the_athlete_where_strava_named_one(alice, row):
    services.link_strava_account(row, {**TOKENS, "athlete": {"id": 7}})
    services.link_strava_account(row, TOKENS)

    assert row_of(alice).strava_athlete_id == 7


def test_an_athlete_belongs_to_one_user(alice, bob, row):
    other = services.create_user_integrations(bob.pk)
    services.link_strava_account(row, {**TOKENS, "athlete": {"id": 7}})

    with pytest.raises(AthleteAlreadyLinked) as caught:
        services.link_strava_account(other, {**TOKENS, "athlete": {"id": 7}})

    assert "alice" not in str(caught.value)
    assert row_of(bob).strava_token is None


@pytest.mark.parametrize(
    "tokens",
    [
        {},
        {**TOKENS, "access_token": None},
        {**TOKENS, "access_token": ""},
        {**TOKENS, "refresh_token": 5},
        {**TOKENS, "expires_at": "soon"},
        {**TOKENS, "expires_at": 10**30},
        {**TOKENS, "expires_at": -5},
        {**TOKENS, "athlete": {"id": "me"}},
    ],
)
def test_tokens_that_make_no_sense_are_refused(alice, row, tokens):
    with pytest.raises(InvalidProviderReply) as caught:
        services.link_strava_account(row, tokens)

    assert caught.value.__cause__ is None
    assert row_of(alice).strava_token is None


def test_unlinking_clears_every_strava_field(alice, row):
    services.link_garminconnect_account(alice.pk, {"oauth_token": "o"}, None)
    services.set_user_strava_client(alice.pk, "10", "secret")
    services.set_user_strava_sync_gear(alice.pk, True)
    services.link_strava_account(row, {**TOKENS, "athlete": {"id": 7}})
    services.set_user_strava_state(alice.pk, "state-1")

    services.unlink_strava_account(alice.pk)

    fresh = UsersIntegrations(user_id=alice.pk)
    stored = row_of(alice)
    for field in UsersIntegrations._meta.concrete_fields:
        if field.name.startswith("strava"):
            assert getattr(stored, field.name) == getattr(fresh, field.name), field.name
    assert stored.garminconnect_oauth1 == {"oauth_token": "o"}


def test_garmin_tokens_are_stored_and_cleared(alice, row):
    oauth1, oauth2 = {"oauth_token": "o", "n": [1, {"å": None}]}, {"di_token": "d"}

    services.link_garminconnect_account(alice.pk, oauth1, oauth2)
    services.set_user_garminconnect_sync_gear(alice.pk, True)
    stored = row_of(alice)
    assert (stored.garminconnect_oauth1, stored.garminconnect_oauth2) == (oauth1, oauth2)
    assert stored.garminconnect_sync_gear is True

    services.unlink_garminconnect_account(alice.pk)
    stored = row_of(alice)
    assert (stored.garminconnect_oauth1, stored.garminconnect_oauth2) == (None, None)
    assert stored.garminconnect_sync_gear is False


def test_either_garmin_token_may_be_missing(alice, row):
    services.link_garminconnect_account(alice.pk, None, {"di_token": "d"})

    assert row_of(alice).garminconnect_oauth1 is None
    assert row_of(alice).garminconnect_oauth2 == {"di_token": "d"}


def test_with_neither_garmin_token_there_is_no_link(alice, row):
    services.link_garminconnect_account(alice.pk, None, {"di_token": "d"})
    services.link_garminconnect_account(alice.pk, {"oauth_token": "o"}, None)
    services.link_garminconnect_account(alice.pk, None, None)
    services.link_garminconnect_account(alice.pk, None, None)  # says nothing more

    stored = row_of(alice)
    assert (stored.garminconnect_status, stored.garminconnect_linked_at) == ("not_linked", None)
    assert list(LinkEvent.objects.order_by("pk").values_list("event", flat=True)) == [
        "linked",
        "relinked",
        "unlinked",
    ]


def test_gear_synchronisation_is_switched(alice, row):
    services.set_user_strava_sync_gear(alice.pk, True)
    assert row_of(alice).strava_sync_gear is True
    services.set_user_strava_sync_gear(alice.pk, False)
    assert row_of(alice).strava_sync_gear is False


WRITES = {
    "edit": lambda user_id: services.edit_user_integrations(
        UsersIntegrationsUpdate(strava_sync_gear=True), user_id
    ),
    "edit nothing": lambda user_id: services.edit_user_integrations(
        UsersIntegrationsUpdate(), user_id
    ),
    "get": services.get_user_integrations_by_user_id,
    "client": lambda user_id: services.set_user_strava_client(user_id, "10", "secret"),
    "state": lambda user_id: services.set_user_strava_state(user_id, "state"),
    "no state": lambda user_id: services.set_user_strava_state(user_id, None),
    "unlink strava": services.unlink_strava_account,
    "strava gear": lambda user_id: services.set_user_strava_sync_gear(user_id, True),
    "link garmin": lambda user_id: services.link_garminconnect_account(user_id, {}, {}),
    "unlink garmin": services.unlink_garminconnect_account,
    "garmin gear": lambda user_id: services.set_user_garminconnect_sync_gear(user_id, True),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_user_without_a_row_is_not_found(alice, name):
    with pytest.raises(IntegrationsNotFound) as caught:
        WRITES[name](alice.pk)
    assert caught.value.status_code == 404


@pytest.mark.parametrize("name", [name for name in WRITES if name not in ("edit", "edit nothing")])
def test_a_service_costs_one_statement(alice, row, name):
    with CaptureQueriesContext(connection) as queries:
        WRITES[name](alice.pk)
    statements = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
    # A link is noted in the trail with whether it replaces one, an unlink where there was one, and
    # that deletes gear, too.
    assert len(statements) == (3 if name.split()[0] in ("link", "unlink") else 1)


@pytest.mark.parametrize("name", WRITES)
def test_a_database_failure_says_nothing_of_the_database(alice, row, name):
    def fail(execute, sql, params, many, context):
        raise DatabaseError("relation users_integrations at 10.0.0.5: secret")

    with connection.execute_wrapper(fail), pytest.raises(IntegrationsError) as caught:
        WRITES[name](alice.pk)

    assert caught.value.status_code == 500
    assert "users_integrations" not in str(caught.value)
    assert "secret" not in repr(caught.value)


def test_tokens_that_are_edited_make_and_end_links(
    alice, row, heard, django_capture_on_commit_callbacks
):
    def edit(**fields):
        services.edit_user_integrations(UsersIntegrationsUpdate(**fields), alice.pk)

    with django_capture_on_commit_callbacks(execute=True):
        edit(strava_token="a", strava_refresh_token="r")
        edit(strava_token="another")  # still the same link
        edit(strava_token=None, strava_refresh_token=None, garminconnect_oauth2={"di_token": "d"})
        edit(strava_sync_gear=True)

    assert heard == [
        ("linked", alice.pk, "strava"),
        ("unlinked", alice.pk, "strava"),
        ("linked", alice.pk, "garminconnect"),
    ]
    trail = LinkEvent.objects.order_by("pk").values_list("event", "provider")
    assert list(trail) == [(f"{name}", provider) for name, _, provider in heard]


def test_signals_come_after_commit(alice, row, heard, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        services.link_strava_account(row, TOKENS)
        services.link_garminconnect_account(alice.pk, {}, None)
        services.unlink_strava_account(alice.pk)
        services.unlink_garminconnect_account(alice.pk)
        assert heard == []

    assert len(callbacks) == 4
    assert heard == [
        ("linked", alice.pk, "strava"),
        ("linked", alice.pk, "garminconnect"),
        ("unlinked", alice.pk, "strava"),
        ("unlinked", alice.pk, "garminconnect"),
    ]


def test_a_receiver_that_fails_does_not_undo_the_link(
    alice, row, django_capture_on_commit_callbacks
):
    def receiver(**kwargs):
        raise ValueError("host project")

    account_linked.connect(receiver)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            services.link_strava_account(row, TOKENS)
    finally:
        account_linked.disconnect(receiver)

    assert row_of(alice).strava_token == "access-1"


def test_an_update_refuses_unknown_fields():
    with pytest.raises(ValidationError):
        UsersIntegrationsUpdate(strava_tokn="x")


@pytest.mark.parametrize(
    "fields",
    [
        {"strava_token": 5},
        {"strava_sync_gear": "yes"},
        {"strava_sync_gear": None},
        {"garminconnect_oauth1": "text"},
    ],
)
def test_schemas_are_strict(fields):
    with pytest.raises(ValidationError):
        UsersIntegrationsUpdate(**fields)


def test_a_validation_error_does_not_repeat_a_secret():
    with pytest.raises(ValidationError) as caught:
        UsersIntegrationsUpdate(strava_token=b"s3cret-bytes")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("schema", [UsersIntegrationsBase, UsersIntegrationsCreate])
def test_a_schema_starts_empty(schema):
    assert set(schema().model_dump().values()) == {None, False}
    assert len(schema.model_fields) == 10


def test_no_secret_shows_in_a_schema(alice, row):
    services.set_user_strava_client(alice.pk, "s3cret-id", "s3cret")
    services.set_user_strava_state(alice.pk, "s3cret-state")
    services.link_garminconnect_account(alice.pk, {"a": "s3cret"}, {"b": "s3cret"})

    schema = UsersIntegrationsRead.model_validate(row_of(alice))

    assert schema.strava_client_secret == "s3cret"
    assert schema.garminconnect_oauth2 == {"b": "s3cret"}
    assert "s3cret" not in repr(schema)
    assert "s3cret" not in str(schema)


def test_times_become_aware_utc(alice, row):
    naive = UsersIntegrationsUpdate(strava_token_expires_at=datetime(2030, 1, 1, 12))
    paris = UsersIntegrationsUpdate(
        strava_token_expires_at=datetime(2030, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    )

    assert naive.strava_token_expires_at == paris.strava_token_expires_at
    stored = services.edit_user_integrations(naive, alice.pk).strava_token_expires_at
    assert stored == datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes", [{"expires_at": 1_900_000_000.75}, {"expires_at": None, "expires_in": 21600}]
)
def test_an_instant_may_be_told_in_other_ways(row, changes):
    tokens = {name: value for name, value in (TOKENS | changes).items() if value is not None}
    services.link_strava_account(row, tokens)
    if "expires_at" in tokens:
        assert row.strava_token_expires_at == datetime.fromtimestamp(1_900_000_000, tz=UTC)
    else:
        left = row.strava_token_expires_at - datetime.now(tz=UTC)
        assert timedelta(hours=5, minutes=59) < left <= timedelta(hours=6)


@pytest.mark.parametrize("tokens", [None, [], "abc", 5, [1, 2], object()])
def test_what_is_no_answer_of_stravas_is_refused_by_name(row, tokens):
    with pytest.raises(InvalidProviderReply):
        services.link_strava_account(row, tokens)


def test_an_empty_app_is_none(row, settings):
    settings.STRAVA_CLIENT_ID, settings.STRAVA_CLIENT_SECRET = "10001", "s3cret"
    services.set_user_strava_client(row.user_id, "", "")
    request = services.begin_authorization(row.user_id, "strava", "http://testserver/")
    assert "client_id=10001&" in request.authorization_url
