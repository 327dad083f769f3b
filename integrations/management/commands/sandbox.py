"""Serve stand-ins of the providers on loopback."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import import_string

from integrations.sandbox import Sandbox


class Command(BaseCommand):
    help = "Serves stand-ins of the providers on 127.0.0.1, until Ctrl-C or SIGTERM."
    # The checks do not concern the sandbox, and a page of warnings would bury its address.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, default=8001, help="port on 127.0.0.1, 0 for any (default: 8001)"
        )
        parser.add_argument(
            "--add",
            action="append",
            default=[],
            metavar="CLASS",
            help="dotted path of one more stand-in, such as mysite.tempo_sandbox.Tempo; repeatable",
        )
        parser.add_argument("--quiet", action="store_true", help="do not print each request")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("The sandbox gives tokens to anybody: it needs DEBUG.")
        log = None if options["quiet"] else self._say
        try:
            extra = [import_string(path) for path in options["add"]]
        except ImportError as exc:
            raise CommandError(str(exc)) from exc
        try:
            sandbox = Sandbox(options["port"], log=log, extra=extra).start()
        except (OSError, OverflowError) as exc:
            raise CommandError(f"Cannot serve on port {options['port']}: {exc}") from exc
        stop = threading.Event()
        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, lambda *_: stop.set())
            self._say(f"Sandbox at {sandbox.url}/ (stop with Ctrl-C)")
            stop.wait()
        finally:
            sandbox.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._say("Sandbox stopped.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
