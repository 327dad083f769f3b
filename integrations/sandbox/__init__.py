"""Stand-ins of the providers: their own process, their own origin, invented people.

Nothing here imports the app, and the app imports nothing from here. The
sandbox is spoken to over HTTP like the real thing, so a client that passes
against it has not been helped by shared code.
"""

from .server import Sandbox

__all__ = ["Sandbox"]
