"""What is stored. Only services write it."""

from .gear import Gear
from .integrations import UsersIntegrations
from .keys import FernetCanary
from .link import Home, Link, LinkStatus, Units
from .login import GarminConnectAttempt, GarminConnectLogin
from .push import PushSubscription
from .trail import LinkEvent

__all__ = [
    "FernetCanary",
    "GarminConnectAttempt",
    "GarminConnectLogin",
    "Gear",
    "Home",
    "Link",
    "LinkEvent",
    "LinkStatus",
    "PushSubscription",
    "Units",
    "UsersIntegrations",
]
