"""What host projects can listen to. All are sent after commit, with `sender=UsersIntegrations`,
`user_id` and `provider` ("strava" or "garminconnect"), and never carry a secret.
"""

from django.dispatch import Signal

account_linked = Signal()
account_unlinked = Signal()
relink_required = Signal()
gear_synced = Signal()
