"""A host project's own program: asks for tokens and sessions, and uses them, until told to end."""

from __future__ import annotations

import logging
import random
import threading

import django
import requests

logger = logging.getLogger("project.host")


def main() -> None:
    django.setup()
    from django.conf import settings
    from django.db import close_old_connections

    from integrations import ending, services
    from integrations.exceptions import IntegrationsError
    from integrations.models import UsersIntegrations

    def ask() -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not ending.told():
                close_old_connections()
                try:
                    users = list(UsersIntegrations.objects.values_list("user_id", flat=True))
                    if users:
                        use(random.choice(users), session)
                except IntegrationsError as exc:
                    logger.info("not now", extra={"event": "host.refused", "code": exc.code})
                except Exception as exc:
                    logger.warning("failed: %s", type(exc).__name__, extra={"event": "host.failed"})
                ending.wait(random.uniform(0.05, 0.4))

    def use(user_id: int, session: requests.Session) -> None:
        if random.random() < 0.2:
            services.get_garminconnect_client(user_id).get_gear_list()
            return
        token = services.get_strava_access_token(user_id)
        session.get(
            f"{settings.STRAVA_API_URL}/athlete",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )

    with ending.holding():
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
