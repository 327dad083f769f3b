"""Settings that `gunicorn project.wsgi` reads by itself; WEB_CONCURRENCY sets the workers."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

sys.path.insert(0, str(Path(__file__).resolve().parent))

from project.env import load

try:
    # gunicorn looks for these in the environment by itself, but does not read `.env` or NAME_FILE.
    _environment = load()
    workers = _environment.number("WEB_CONCURRENCY", 1)
    forwarded_allow_ips = ",".join(
        _environment.networks("FORWARDED_ALLOW_IPS", ["127.0.0.1", "::1"])
    )
    # project.proxy reads the other headers. If they were listed here, gunicorn would refuse a
    # request in which they differ by a word, such as "https,https" beside "on".
    secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
except ImproperlyConfigured as exc:
    sys.exit(f"Configuration error: {exc}")

# Threads, because a request that waits for Strava should not keep the others waiting.
threads = 8
# They wait for nobody who sends or reads slowly.
worker_class = "project.server.Worker"
# Longer than the longest wait for another process's token refresh.
timeout = 90
# %(U)s is the path without its query: an OAuth callback carries its code and state there.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(M)sms'


def _encoded_path(record):
    """Log the path as it was sent: decoded, it could have quotes, spaces and line breaks."""
    if isinstance(record.args, dict) and isinstance(record.args.get("U"), str):
        path = record.args["U"].replace('\\"', '"')  # as gunicorn escapes it
        record.args["U"] = quote(path, safe="/:@!$&'()*+,;=~", errors="replace")
    return True


def on_starting(server):
    """Keep secrets out of gunicorn's own logs: an uncaught error shows the request's URL. And let
    nobody write lines of their own there.
    """
    from integrations.reporting import OnOneLine, WithoutSecrets  # after --chdir has been done

    server.log.access_log.addFilter(_encoded_path)
    for log in (server.log.error_log, server.log.access_log):
        log.addFilter(WithoutSecrets())
        log.addFilter(OnOneLine())


def post_worker_init(worker):
    """Drop the sub-path, which the site has read by now. With it, gunicorn would refuse every path
    outside it: a probe's, and all from a proxy that strips it. And note a signal to end.
    """
    os.environ.pop("SCRIPT_NAME", None)
    from integrations import ending

    # Requests run in threads, which learn from this that the worker is being stopped.
    ending.listen()


def when_ready(server):
    """Run the system checks, which gunicorn does not: they report a wrong key, for example.

    The start does not wait for them: even with a wrong key every page opens, and /healthz/ answers
    503.
    """
    command = [sys.executable, "manage.py", "check", "--database", "default"]
    subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 (nobody's input)
