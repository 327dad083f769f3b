"""The public API: one function per operation, and the only code that writes rows."""

from ._waits import short_waits
from .export import export_integrations
from .gear import GearCounts, get_gear, set_sync_gear, sync_gear
from .keys import fernet_keys_open_secrets
from .links import disconnect
from .oauth import (
    Authorization,
    AuthorizationRequest,
    begin_authorization,
    complete_authorization,
)
from .seed import (
    create_user_integrations,
    edit_user_integrations,
    get_garminconnect_client,
    get_strava_access_token,
    get_user_integrations_by_strava_state,
    get_user_integrations_by_user_id,
    link_garminconnect_account,
    link_strava_account,
    set_user_garminconnect_sync_gear,
    set_user_strava_client,
    set_user_strava_state,
    set_user_strava_sync_gear,
    sync_garminconnect_gear,
    sync_strava_gear,
    unlink_garminconnect_account,
    unlink_strava_account,
)
from .status import get_integrations_status
from .tokens import get_access_token, refresh_link, report_rejected_token
from .trail import acting_as
from .words import staff_message

__all__ = [
    "Authorization",
    "AuthorizationRequest",
    "GearCounts",
    "acting_as",
    "begin_authorization",
    "complete_authorization",
    "create_user_integrations",
    "disconnect",
    "edit_user_integrations",
    "export_integrations",
    "fernet_keys_open_secrets",
    "get_access_token",
    "get_garminconnect_client",
    "get_gear",
    "get_integrations_status",
    "get_strava_access_token",
    "get_user_integrations_by_strava_state",
    "get_user_integrations_by_user_id",
    "link_garminconnect_account",
    "link_strava_account",
    "refresh_link",
    "report_rejected_token",
    "set_sync_gear",
    "set_user_garminconnect_sync_gear",
    "set_user_strava_client",
    "set_user_strava_state",
    "set_user_strava_sync_gear",
    "short_waits",
    "staff_message",
    "sync_garminconnect_gear",
    "sync_gear",
    "sync_strava_gear",
    "unlink_garminconnect_account",
    "unlink_strava_account",
]
