"""The public API: one function an operation, and the only writer of rows."""

from .garminconnect import (
    disconnect_garminconnect,
    get_garminconnect_client,
    link_garminconnect_account,
    refresh_garminconnect_session,
    set_user_garminconnect_sync_gear,
    unlink_garminconnect_account,
)
from .garminconnect_login import (
    begin_garminconnect_login,
    cancel_garminconnect_login,
    codes_left,
    forget_dead_garminconnect_logins,
    get_garminconnect_login,
    run_garminconnect_login,
    run_garminconnect_mfa,
    submit_garminconnect_code,
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
    "begin_garminconnect_login",
    "begin_strava_authorization",
    "cancel_garminconnect_login",
    "codes_left",
    "complete_strava_authorization",
    "create_user_integrations",
    "describe_integrations",
    "disconnect_garminconnect",
    "disconnect_strava",
    "edit_user_integrations",
    "forget_dead_garminconnect_logins",
    "get_garminconnect_client",
    "get_garminconnect_login",
    "get_integrations_or_default",
    "get_integrations_status",
    "get_strava_access_token",
    "get_user_integrations_by_strava_state",
    "get_user_integrations_by_user_id",
    "link_garminconnect_account",
    "link_strava_account",
    "refresh_garminconnect_session",
    "refresh_strava_access_token",
    "run_garminconnect_login",
    "run_garminconnect_mfa",
    "set_user_garminconnect_sync_gear",
    "set_user_strava_client",
    "set_user_strava_state",
    "set_user_strava_sync_gear",
    "submit_garminconnect_code",
    "unlink_garminconnect_account",
    "unlink_strava_account",
]
