"""The public API: one function an operation, and the only writer of rows."""

from .garminconnect import (
    link_garminconnect_account,
    set_user_garminconnect_sync_gear,
    unlink_garminconnect_account,
)
from .status import describe_integrations, get_integrations_or_default, get_integrations_status
from .strava import (
    disconnect_strava,
    link_strava_account,
    set_user_strava_client,
    set_user_strava_state,
    set_user_strava_sync_gear,
    unlink_strava_account,
)
from .strava_authorization import (
    AuthorizationRequest,
    StravaAuthorization,
    begin_strava_authorization,
    complete_strava_authorization,
)
from .strava_tokens import get_strava_access_token, refresh_strava_access_token
from .users_integrations import (
    create_user_integrations,
    edit_user_integrations,
    get_user_integrations_by_strava_state,
    get_user_integrations_by_user_id,
)

__all__ = [
    "AuthorizationRequest",
    "StravaAuthorization",
    "begin_strava_authorization",
    "complete_strava_authorization",
    "create_user_integrations",
    "describe_integrations",
    "disconnect_strava",
    "edit_user_integrations",
    "get_integrations_or_default",
    "get_integrations_status",
    "get_strava_access_token",
    "get_user_integrations_by_strava_state",
    "get_user_integrations_by_user_id",
    "link_garminconnect_account",
    "link_strava_account",
    "refresh_strava_access_token",
    "set_user_garminconnect_sync_gear",
    "set_user_strava_client",
    "set_user_strava_state",
    "set_user_strava_sync_gear",
    "unlink_garminconnect_account",
    "unlink_strava_account",
]
