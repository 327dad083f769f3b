from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from integrations import services
from integrations.exceptions import IntegrationsError
from integrations.strava import push


class Command(BaseCommand):
    help = "Manage the push subscription of the site's Strava app."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("create", "list", "delete"))
        parser.add_argument(
            "--callback-url",
            metavar="URL",
            help=(
                "where Strava is to send events: https://HOST/integrations/strava/webhook/. A "
                "secret is added to it, which only Strava learns."
            ),
        )

    def handle(self, *, action: str, callback_url: str | None, **options: Any) -> None:
        try:
            if action == "create":
                if not callback_url:
                    raise CommandError("create needs --callback-url.")
                created = push.create_subscription(callback_url)
                self.stdout.write(f"Created subscription {created}.")
            elif action == "delete":
                deleted = push.delete_subscriptions()
                self.stdout.write(f"Deleted {len(deleted)} subscription(s).")
            else:
                for subscription in push.list_subscriptions():
                    self.stdout.write(f"{subscription.id}  {subscription.callback_url}")
        except IntegrationsError as exc:
            raise CommandError(f"{services.staff_message(exc)} ({exc.code})") from exc
