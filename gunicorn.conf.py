"""gunicorn project.wsgi reads this by itself; WEB_CONCURRENCY says how many workers."""

import subprocess
import sys

# Threads, because a request that waits for Strava should not keep the others waiting.
threads = 8
# Longer than the longest wait for another process's token refresh.
timeout = 90
# %(U)s is the path without its query: an OAuth callback carries its code and state there.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(M)sms'


def on_starting(server):
    """Keep secrets out of its log, and say what the system checks say, such as of a wrong key.

    gunicorn runs none by itself. The site starts all the same: with a wrong key every page opens,
    and /healthz/ answers 503.
    """
    # Only now, because --chdir has been done.
    from integrations.reporting import WithoutSecrets

    # Its own log is no part of Django's: an error that leaves the site would show its address.
    server.log.error_log.addFilter(WithoutSecrets())
    command = [sys.executable, "manage.py", "check", "--database", "default"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 (nobody's input)
