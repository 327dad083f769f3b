"""Settings of the site, all from the environment; `.env` beside manage.py is read when present.

The README explains each variable.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.utils.csp import CSP
from django.utils.functional import SimpleLazyObject
from pythonjsonlogger.core import RESERVED_ATTRS

from .env import load
from .sqlite import PrivateConnection

BASE_DIR = Path(__file__).resolve().parent.parent

env = load()
env.publish("PROMETHEUS_MULTIPROC_DIR")

DEBUG = env.flag("DEBUG")


def _strong(name: str, value: str) -> str:
    """Refuse a key that could be guessed, without showing it."""
    if len(value) < 32 or len(set(value)) < 8:
        raise ImproperlyConfigured(
            f"{name} is too weak: every key needs at least 32 random characters. Make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(48))"'
        )
    return value


SECRET_KEY = env.text("SECRET_KEY", "django-insecure-development-only" if DEBUG else "")
FERNET_KEYS = env.items("FERNET_KEYS") or ([SECRET_KEY] if DEBUG else [])
if not DEBUG:
    for name, keys in (("SECRET_KEY", [SECRET_KEY]), ("FERNET_KEYS", FERNET_KEYS)):
        if not any(keys):
            raise ImproperlyConfigured(f"{name} must be set in the environment or in .env.")
        for key in keys:
            _strong(name, key)

INTEGRATIONS_SANDBOX = env.flag("INTEGRATIONS_SANDBOX")
if INTEGRATIONS_SANDBOX and not DEBUG:
    raise ImproperlyConfigured("INTEGRATIONS_SANDBOX is for development: unset it or set DEBUG.")
_WEB = ("http", "https")
INTEGRATIONS_SANDBOX_URL = env.address("INTEGRATIONS_SANDBOX_URL", _WEB, "http://127.0.0.1:8001")


# What athletes can link: the dotted paths of providers, all built-in ones by default.
if _providers := env.items("INTEGRATIONS_PROVIDERS"):
    INTEGRATIONS_PROVIDERS = _providers
# The site's own app at each of them, its scopes, and its addresses, as in WAHOO_CLIENT_ID. Without
# an app a provider is not offered; for Strava, athletes may paste an app of their own.
globals().update(env.of_providers())

# Beside .env, which names the database.
INTEGRATIONS_SPOOL_DIR = env.text("INTEGRATIONS_SPOOL_DIR", str(BASE_DIR / "spool"))
INTEGRATIONS_TRAIL_DAYS = env.number("INTEGRATIONS_TRAIL_DAYS", 365)

# The site's public address, for a proxy in front of it that changes the Host.
INTEGRATIONS_BASE_URL = env.address("INTEGRATIONS_BASE_URL", _WEB)
_public = urlsplit(INTEGRATIONS_BASE_URL)
# The site's sub-path, if it is not at the root.
FORCE_SCRIPT_NAME = env.sub_path("SCRIPT_NAME", within="INTEGRATIONS_BASE_URL") or None

ALLOWED_HOSTS = env.items("ALLOWED_HOSTS")
# Copied from an address bar, an origin ends in a slash; browsers send it without.
CSRF_TRUSTED_ORIGINS = [each.rstrip("/") for each in env.items("CSRF_TRUSTED_ORIGINS")]
if INTEGRATIONS_BASE_URL:
    # As browsers write it in Origin: without the default port.
    _host = _public.netloc.lower().removesuffix({"http": ":80", "https": ":443"}[_public.scheme])
    CSRF_TRUSTED_ORIGINS.append(f"{_public.scheme}://{_host}")

# Limits are counted here; the count is exact if all processes share one cache (redis://…).
CACHES = {"default": env.cache("CACHE_URL", "locmemcache://")}
if CACHES["default"]["BACKEND"].endswith("LocMemCache"):
    # Many more than by default, or a flood of made-up names would push the counts out.
    CACHES["default"].setdefault("OPTIONS", {}).setdefault("MAX_ENTRIES", 100_000)
if CACHES["default"]["BACKEND"].endswith("RedisCache"):
    # Seconds. A page asks it a few times, and does without one that is silent.
    CACHES["default"]["OPTIONS"] = {
        "socket_connect_timeout": 1,
        "socket_timeout": 1,
        **CACHES["default"].get("OPTIONS", {}),
    }
# The proxies whose X-Forwarded-Proto and -For count.
TRUSTED_PROXIES = env.networks("FORWARDED_ALLOW_IPS", ["127.0.0.1", "::1"])

INSTALLED_APPS = [
    "integrations",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_tasks_db",
    "axes",
]

MIDDLEWARE = [
    # Above all that answers by itself: a static file, a redirect or a refusal has the policy, too.
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "project.middleware.known_hosts",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "project.middleware.only_utf8",
    "project.middleware.short_waits",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

_sqlite = f"sqlite:///{quote(str(BASE_DIR / 'db.sqlite3'))}"
DATABASES = {"default": env.database("DATABASE_URL", _sqlite)}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        # Readers do not wait for the writer. A transaction that will write locks at its start,
        # because upgrading a read lock later fails at once instead of waiting. `synchronous` stays
        # FULL: a rotated token lost in a power cut is a lost link.
        "init_command": "PRAGMA journal_mode=WAL;",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "factory": PrivateConnection,
        **DATABASES["default"].get("OPTIONS", {}),
    }
else:
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
    if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
        # So that /healthz/ reports an unresponsive server within seconds.
        DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 3)

_TASKS_BACKENDS = {
    "database": "django_tasks_db.DatabaseBackend",
    "immediate": "django.tasks.backends.immediate.ImmediateBackend",
    "celery": "django_tasks_celery.CeleryBackend",
}
TASKS_BACKEND = env.choice("TASKS_BACKEND", _TASKS_BACKENDS, "database")
TASKS: dict[str, dict[str, Any]] = {"default": {"BACKEND": _TASKS_BACKENDS[TASKS_BACKEND]}}
SILENCED_SYSTEM_CHECKS: list[str] = []

if TASKS_BACKEND == "celery":
    TASKS["default"]["OPTIONS"] = {"CELERY_APP": "project.celery.app"}
    CELERY_BROKER_URL = env.address(
        "CELERY_BROKER_URL",
        ("amqp", "amqps", "redis", "rediss"),
        example="amqp://user:password@host//",
        several=True,
    )
    if not CELERY_BROKER_URL:
        raise ImproperlyConfigured(
            "CELERY_BROKER_URL must be an amqp:// or redis:// address for TASKS_BACKEND=celery."
        )
    # Each of several sites on one broker needs its own name.
    CELERY_TASK_DEFAULT_QUEUE = env.text("CELERY_TASK_DEFAULT_QUEUE", "integrations")
    CELERY_TASK_SERIALIZER = "json"
    CELERY_ACCEPT_CONTENT = ["json"]
    # A task leaves the queue only after it has run, so a machine that dies loses none. Running
    # twice is harmless: each run claims its row, or finds nothing left to do.
    CELERY_TASK_ACKS_LATE = True
    CELERY_TASK_REJECT_ON_WORKER_LOST = True
    CELERY_WORKER_PREFETCH_MULTIPLIER = 1
    # Garmin may get a password only once: a sign-in ends in the worker where it began, even if the
    # broker goes down meanwhile, and a worker that gets the task again finds it superseded.
    CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
    CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
    # The app's rows say how a task ended; nothing reads its result.
    CELERY_TASK_IGNORE_RESULT = True
    SILENCED_SYSTEM_CHECKS += ["django_tasks_celery.W001", "django_tasks_celery.W002"]
    # Levels 0 to 4, from Django's -100 to 100; project.celery maps them.
    CELERY_TASK_QUEUE_MAX_PRIORITY = 4
    # Seconds for each answer of a broker. With a memory alarm, RabbitMQ confirms nothing for hours.
    _patience = 4
    CELERY_BROKER_CONNECTION_TIMEOUT = _patience
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = (
        {"confirm_publish": True, "read_timeout": _patience, "write_timeout": _patience}
        if CELERY_BROKER_URL.startswith("amqp")
        else {
            "priority_steps": [0, 1, 2, 3, 4],
            "socket_connect_timeout": _patience,
            "socket_timeout": _patience,
        }
    )
    # Once, for a connection that has died in the pool.
    CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# How long the link in a message works.
PASSWORD_RESET_TIMEOUT = 3600  # seconds
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "integrations:settings"
LOGOUT_REDIRECT_URL = "login"

# Limits on guesses. They count for one name from one network: by the name alone, anybody could lock
# anybody out. The counts are in the cache, so no table keeps what was typed.
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AXES_HANDLER = "project.login.Handler"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "project.login.client_network"
AXES_USERNAME_CALLABLE = "project.login.counted_name"
AXES_FAILURE_LIMIT = "project.login.most_failures"
AXES_COOLOFF_TIME = timedelta(minutes=5)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "project.views.locked_out"
# Its pages would show empty tables.
AXES_ENABLE_ADMIN = False

# A code of an authenticator app, besides the password, for the admin.
STAFF_SECOND_FACTOR = env.flag("STAFF_SECOND_FACTOR")
if STAFF_SECOND_FACTOR:
    INSTALLED_APPS += ["django_otp", "django_otp.plugins.otp_totp"]
    MIDDLEWARE.insert(
        MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1,
        "django_otp.middleware.OTPMiddleware",
    )
    OTP_TOTP_ISSUER = "Athlete Integrations"
    # No page of the admin shows the seed of a device.
    OTP_ADMIN_HIDE_SENSITIVE_DATA = True

# Without a mail server nobody can ask for a new password.
MAILERS = env.mailers("EMAIL_URL", "consolemail://" if DEBUG else "")
if not MAILERS:
    SILENCED_SYSTEM_CHECKS += ["mail.W001"]
DEFAULT_FROM_EMAIL = env.text("DEFAULT_FROM_EMAIL", "webmaster@localhost")

TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "project.storage.StaticFilesStorage"},
}
# The part of STATIC_URL that WhiteNoise sees: without the sub-path.
WHITENOISE_STATIC_PREFIX = "/static/"
# Pages look right even before anyone has run collectstatic.
WHITENOISE_USE_FINDERS = True

# --- Security -------------------------------------------------------------------------------


def _form_action() -> list[str]:
    from integrations import providers  # needs the settings

    return [CSP.SELF, *providers.authorization_origins()]


SECURE_CSP = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    # Chromium holds form-action against the redirect that follows a submitted form, too.
    "form-action": SimpleLazyObject(_form_action),
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
}
SESSION_ENGINE = "project.sessions"
# Lax, not Strict: the return from Strava is a cross-site navigation and needs the session.
SESSION_COOKIE_SAMESITE = "Lax"
# Not Strict: the return from Strava would set a new one and make other tabs' forms stale.
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
MESSAGE_STORAGE = "project.storage.MessageStorage"
COOKIE_PREFIX = ""
# A form has no files, so none is read; and none comes near this size.
DATA_UPLOAD_MAX_NUMBER_FILES = 0
FILE_UPLOAD_HANDLERS: list[str] = []
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
# Not sent to other sites on the same host.
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = FORCE_SCRIPT_NAME or "/"
CSRF_FAILURE_VIEW = "project.views.csrf_failure"
DEFAULT_EXCEPTION_REPORTER = "integrations.reporting.SecretsExceptionReporter"

# For a home network without TLS: anybody on it can read passwords and take over sessions.
INSECURE_HTTP = env.flag("INSECURE_HTTP")
if not DEBUG and not INSECURE_HTTP:
    # TLS ends at a proxy; project.proxy detects https by X-Forwarded-Proto from TRUSTED_PROXIES.
    SECURE_SSL_REDIRECT = True
    if _public.scheme == "https":
        SECURE_SSL_HOST = _public.netloc
    # These are requested from inside, without the proxy.
    _below = re.escape(f"{FORCE_SCRIPT_NAME or ''}/".lstrip("/"))
    SECURE_REDIRECT_EXEMPT = [rf"^{_below}healthz/$", rf"^{_below}metrics$"]
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # No other host of the domain, and nobody on the way of plain HTTP, can set cookies with these
    # names. A cookie with the stricter one must be for the whole host.
    COOKIE_PREFIX = "__Secure-" if FORCE_SCRIPT_NAME else "__Host-"
    SESSION_COOKIE_NAME = f"{COOKIE_PREFIX}sessionid"
    CSRF_COOKIE_NAME = f"{COOKIE_PREFIX}csrftoken"
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    # This site cannot know whether its sibling subdomains speak TLS, nor put the domain on the
    # browsers' preload list: its owner decides that.
    SILENCED_SYSTEM_CHECKS += ["security.W005", "security.W021"]

# --- Health and metrics ----------------------------------------------------------------------

# The counts at /metrics are private: the scraper sends the token as `Authorization: Bearer`.
PROMETHEUS = env.flag("PROMETHEUS")
PROMETHEUS_TOKEN = env.text("PROMETHEUS_TOKEN")
if PROMETHEUS and not DEBUG and not PROMETHEUS_TOKEN:
    raise ImproperlyConfigured("PROMETHEUS needs a PROMETHEUS_TOKEN, or anybody could read it.")
# prometheus_client itself reads it from the environment.
_multiproc_dir = env.text("PROMETHEUS_MULTIPROC_DIR")
if PROMETHEUS and _multiproc_dir and not Path(_multiproc_dir).is_dir():
    raise ImproperlyConfigured("PROMETHEUS_MULTIPROC_DIR must name a directory that exists.")

# --- Logging --------------------------------------------------------------------------------

_LOG_FORMATS: dict[str, dict[str, Any]] = {
    "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
    "json": {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": ["levelname", "name", "event", "message"],
        "rename_fields": {"levelname": "level", "name": "logger"},
        "timestamp": "time",
        # Attributes that Django adds to its records, and those that a log line does not need. A
        # request shows its URL, and with it the code and state of a callback.
        "reserved_attrs": [*RESERVED_ATTRS, "request", "server_time"],
    },
}
LOG_FORMAT = env.choice("LOG_FORMAT", _LOG_FORMATS, "line")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "without_query": {"()": "integrations.reporting.WithoutQuery"},
        "without_secrets": {"()": "integrations.reporting.WithoutSecrets"},
        "on_one_line": {"()": "integrations.reporting.OnOneLine"},
        "with_event": {"()": "integrations.reporting.WithEvent"},
    },
    "formatters": {"console": _LOG_FORMATS[LOG_FORMAT]},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "console",
            "filters": [
                "with_event",
                "without_query",
                "without_secrets",
                *(["on_one_line"] if LOG_FORMAT == "line" else []),  # JSON escapes by itself
            ],
        },
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "integrations": {"level": "INFO"},
        "project": {"level": "INFO"},
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "django.server": {"handlers": ["console"], "level": "INFO", "propagate": False},
        # It would log a traceback per probe, with URLs; project.health logs one line.
        "health_check": {"level": "CRITICAL"},
        # project.login logs a line of its own.
        "axes": {"level": "CRITICAL"},
    },
}
