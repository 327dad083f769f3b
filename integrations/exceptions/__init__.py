"""Every error a caller of this app can meet, in one tree under IntegrationsError.

`status_code` is what an HTTP answer should carry, `code` is stable and meant for programs,
`user_message` is meant for people: translatable, and without a secret or an internal in it.
"""

from .base import *  # noqa: F403
from .garminconnect import *  # noqa: F403
from .oauth import *  # noqa: F403
