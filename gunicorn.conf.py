"""gunicorn project.wsgi reads this by itself; WEB_CONCURRENCY says how many workers."""

# Threads, because a request that waits for Strava should not keep the others waiting.
threads = 8
# Longer than the longest wait for another process's token refresh.
timeout = 90
# %(U)s is the path without its query: an OAuth callback carries its code and state there.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(M)sms'
