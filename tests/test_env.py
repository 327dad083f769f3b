"""The environment as operators write it: read in one way, and refused in one line."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from urllib.parse import quote, unquote

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import get_random_string

from project import env
from project.env import Environment, load, read_dotenv

from .processes import BASE_DIR
from .test_project import PRODUCTION, manage

SECRET = "s3cr-t"
SETTINGS = BASE_DIR / "project" / "settings.py"
ENDS = ["", " ", "\n", "\r\n", " \t\n "]


def reads(value, name="NAME"):
    return Environment({name: value})


def refusal(read, *secrets):
    """The one line that a reader refuses with. It names the variable and shows nothing."""
    with pytest.raises(ImproperlyConfigured) as caught:
        read()
    line = str(caught.value)
    assert "\n" not in line
    assert "NAME" in line
    assert not caught.value.__cause__
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in secrets:
        assert secret not in line
    return line


# --- What is around a value, and what is in it ---------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_spaces_and_line_breaks_at_the_ends_do_not_count(end):
    def around(value):
        return reads(f"{end}{value}{end}")

    assert around("a b").text("NAME") == "a b"
    assert around("On").flag("NAME") is True
    assert around("7").number("NAME", 1) == 7
    assert around("JSON").choice("NAME", ["line", "json"], "line") == "json"
    assert around(f"a{end},{end}b").items("NAME") == ["a", "b"]
    assert around(f"10.0.0.1,{end}::1").networks("NAME", []) == ["10.0.0.1", "::1"]
    assert around("/sub/").sub_path("NAME") == "/sub"
    assert around("http://a.example").address("NAME", ["http"]) == "http://a.example"
    assert around("postgres://u:p@h/n").database("NAME", "")["NAME"] == "n"
    assert around("redis://h/1").cache("NAME", "")["LOCATION"] == "redis://h/1"


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t \r\n"])
def test_a_blank_value_is_none(blank):
    given = reads(blank)
    assert given.text("NAME", "x") == "x"
    assert given.flag("NAME") is False
    assert given.flag("NAME", True) is True
    assert given.number("NAME", 365) == 365
    assert given.choice("NAME", ["a", "b"], "b") == "b"
    assert given.items("NAME") == []
    assert given.items("NAME", ["x"]) == ["x"]
    assert reads(f"{blank},{blank},").items("NAME", ["x"]) == ["x"]
    assert given.networks("NAME", ["::1"]) == ["::1"]
    assert given.sub_path("NAME") == ""
    assert given.address("NAME", ["http"]) == ""
    assert given.database("NAME", "sqlite:////d").get("NAME") == "/d"
    assert given.cache("NAME", "dummycache://")["BACKEND"].endswith("DummyCache")


ODD = [
    "$",
    "$HOME",
    "$$a",
    "a$b",
    "${HOME}",
    "#",
    "a#b",
    "\\$a",
    "%41",
    "a=b",
    "'",
    '"',
    "é",
    "{a}",
]


@pytest.mark.parametrize("value", ODD)
def test_every_character_is_taken_as_it_is(value):
    given = Environment({"NAME": value, "HOME": "elsewhere", "a": "b"})
    assert given.text("NAME") == value
    assert given.items("NAME") == [value]
    assert Environment({"NAME": f"x, {value}"}).items("NAME") == ["x", value]


def test_django_s_own_keys_are_read_whatever_they_begin_with():
    for first in "abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)":
        key = first + get_random_string(49, "abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)")
        assert reads(key).text("NAME") == key
        assert read_dotenv(f"NAME={key}\n") == {"NAME": key}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("1 on ON true True yes YES y t ok", True),
        ("0 off OFF false False no NO n f", False),
    ],
)
def test_a_switch_has_many_names_in_any_case(words, meant):
    assert {reads(word).flag("NAME", not meant) for word in words.split()} == {meant}


@pytest.mark.parametrize("value", ["nope", "2", "-1", "on # for now", "enabled", "'on'"])
def test_a_switch_that_is_neither_is_refused(value):
    refusal(lambda: reads(value).flag("NAME"), value)


@pytest.mark.parametrize("value", ["s3cr-t", "-1", "1.5", "1_000", "٣", "9" * 5000, "1 day"])
def test_a_number_that_is_none_is_refused(value):
    refusal(lambda: reads(value).number("NAME", 1), value)


def test_a_choice_that_is_not_there_is_refused():
    line = refusal(lambda: reads(SECRET).choice("NAME", ["a", "b"], "a"), SECRET)
    assert "one of a, b" in line


@pytest.mark.parametrize(
    "text", ["a,b:c", "a, b:c", " a ,\n b:c,", "a b:c", "a  b:c", "a\nb:c", "a,,b:c", "a\tb:c"]
)
def test_scopes_are_split_at_commas_and_at_spaces(text):
    assert reads(text).items("NAME", spaces=True) == ["a", "b:c"]


def test_lists_are_split_at_commas_and_lines():
    assert reads("a b,c\nd\r\ne").items("NAME") == ["a b", "c", "d", "e"]


@pytest.mark.parametrize("value", ["proxy", "10.0.0.1 10.0.0.2", "10.0.0.1/8", "10.0.0.1,s3cr-t"])
def test_a_proxy_without_an_address_is_refused(value):
    refusal(lambda: reads(value).networks("NAME", []), value)


@pytest.mark.parametrize("value", ["sub", "/sub", "sub/", "/sub/"])
def test_a_sub_path_has_a_slash_before_it_and_none_behind(value):
    assert reads(value).sub_path("NAME") == "/sub"
    assert reads(f"a/{value.strip('/')}").sub_path("NAME") == "/a/sub"
    assert reads("/").sub_path("NAME") == ""


@pytest.mark.parametrize("value", ["/a b", "http://x/a", "/a?b", "/a#b", "/../a", "/a//b", "/é"])
def test_a_sub_path_that_is_none_is_refused(value):
    refusal(lambda: reads(value).sub_path("NAME"), value)


# --- Addresses ----------------------------------------------------------------------------------

HARD = ["/", "?", "#", "@", ":", "%", "$", "+", ",", ";", "&", "=", "[", "]", " ", "\\", "é", "'"]
SHAPES = ["pa{}ss", "12{}34", "{}ss", "pa{}", "a@{}b"]
READERS = {
    "database": "postgres://u:{}@db.example:5432/name",
    "mysql": "mysql://u:{}@db.example:5432/name",
    "no name": "postgres://u:{}@db.example:5432",
    "cache": "redis://u:{}@db.example:5432/0",
    "secure cache": "rediss://:{}@db.example:5432/0",
    "broker": "amqp://u:{}@db.example:5432//",
    "redis broker": "redis://:{}@db.example:5432/0",
    "second broker": "amqp://other.example//;amqp://u:{}@db.example:5432//",
}


def connects(kind, value):
    """Host, port and password with which the library that gets this address would connect."""
    given = reads(value)
    if "broker" in kind:
        from kombu import Connection
        from kombu.utils.url import url_to_parts

        schemes = ("amqp", "amqps", "redis", "rediss")
        url = given.address("NAME", schemes, example="amqp://user:password@host//", several=True)
        with Connection(url) as connection:
            last = url_to_parts(connection.alt[-1] if connection.alt else url)
        return last.hostname, last.port, last.password
    if "cache" in kind:
        from redis.connection import parse_url

        found = parse_url(given.cache("NAME", "")["LOCATION"])
        return found["host"], found["port"], found["password"]
    found = given.database("NAME", "")
    return found["HOST"], found["PORT"], found["PASSWORD"]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("character", HARD)
def test_a_password_is_understood_or_refused_and_never_misread(kind, character):
    for shape in SHAPES:
        password = shape.format(character)
        read = partial(connects, kind, READERS[kind].format(password))
        found = None
        with suppress(ImproperlyConfigured):
            found = read()
        if found is None:
            line = refusal(read, password, "db.example")
            assert "percent-encoded" in line
        else:
            # 12%34 is percent-encoded already.
            assert found == ("db.example", 5432, unquote(password))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("character", HARD)
def test_a_percent_encoded_password_is_understood(kind, character):
    for shape in SHAPES:
        password = shape.format(character)
        url = READERS[kind].format(quote(password, safe=""))
        assert connects(kind, url) == ("db.example", 5432, password)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("character", ["@", ":", "$", "+"])
def test_what_every_reader_understands_is_not_refused(kind, character):
    password = f"pa{character}ss"
    assert connects(kind, READERS[kind].format(password))[2] == password


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("character", ["/", "?", "#"])
def test_what_would_end_the_host_is_refused(kind, character):
    for password in (f"pa{character}{SECRET}", f"12{character}{SECRET}", f"{character}{SECRET}"):
        refusal(partial(connects, kind, READERS[kind].format(password)), SECRET, "db.example")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("rest", ["h:port/n", "h:99999/n", "h:0/n", "[::1/n", "h h/n", "h/n\n1"])
def test_a_host_that_is_none_is_refused(kind, rest):
    scheme = READERS[kind].rpartition("://")[0].rpartition(";")[2]
    refusal(lambda: connects(kind, f"{scheme}://u:{SECRET}@{rest}"), SECRET)


@pytest.mark.parametrize("value", [f"h/{SECRET}", f"postgress://u:{SECRET}@h/n", f"//u:{SECRET}@h"])
def test_an_address_of_nothing_known_is_refused(value):
    for kind in ("database", "cache", "broker"):
        refusal(partial(connects, kind, value), SECRET, "postgress")


@pytest.mark.parametrize("name", ["a b", "a+b", "a@b", "a;b", "a,b", "$a", "é"])
def test_a_file_s_name_is_taken_as_it_is(name):
    assert reads(f"sqlite:////srv/{name}.db").database("NAME", "")["NAME"] == f"/srv/{name}.db"
    encoded = quote(f"{name}#?%")
    assert reads(f"sqlite:////srv/{encoded}").database("NAME", "")["NAME"] == f"/srv/{name}#?%"


def test_a_database_in_memory_has_to_be_meant():
    for value in ("sqlite://:memory:", "sqlite://", "sqlite:///"):
        assert reads(value).database("NAME", "")["NAME"] == ":memory:"
    refusal(lambda: reads("sqlite://db.sqlite3").database("NAME", ""))


def test_several_hosts_may_be_named():
    found = reads("postgres://u:p@a.example:1,b.example:2/n").database("NAME", "")
    assert (found["HOST"], found["PORT"]) == ("a.example,b.example", "1,2")
    found = reads("redis://a.example:1,b.example:2/0").cache("NAME", "")
    assert found["LOCATION"] == ["redis://a.example:1/0", "redis://b.example:2/0"]
    socket = reads("postgres:////run/postgresql/n").database("NAME", "")
    assert (socket["HOST"], socket["NAME"]) == ("/run/postgresql", "n")


def test_a_scheme_may_be_written_in_capitals():
    assert reads("AMQP://a.example//").address("NAME", ["amqp"]) == "amqp://a.example//"


@pytest.mark.parametrize("value", ["www.strava.com", "https://", "https:/x", "ftp://x", "http://["])
def test_a_web_address_without_a_host_is_refused(value):
    refusal(lambda: reads(value).address("NAME", ("http", "https"), example="one"), value)


# --- NAME_FILE ----------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path):
    def write(content):
        path = tmp_path / "secret"
        path.write_bytes(content)
        return Environment({"NAME_FILE": f" {path}\n"})

    return write


def test_a_file_holds_the_value_of_any_variable(secret):
    assert secret(f"{SECRET}\n".encode()).text("NAME") == SECRET
    assert secret(b"\xef\xbb\xbf$a\r\n").text("NAME") == "$a"
    assert secret(b"on\n").flag("NAME") is True
    assert secret(b"7\n").number("NAME", 1) == 7
    assert secret(b"a\nb\n").items("NAME") == ["a", "b"]
    assert secret(b"postgres://u:p@h/n\n").database("NAME", "")["PASSWORD"] == "p"
    assert secret(b"\n").text("NAME", "default") == "default"


def test_a_variable_and_its_file_may_not_both_be_set(secret):
    given = secret(SECRET.encode())
    for value in ("", " \n"):
        assert Environment({**given.values, "NAME": value}).text("NAME") == SECRET
    line = refusal(lambda: Environment({**given.values, "NAME": "other"}).text("NAME"), SECRET)
    assert "NAME_FILE" in line
    assert "other" not in line


@pytest.mark.parametrize("path", ["/nowhere/s3cr-t", "/", "a\0b"])
def test_a_file_that_cannot_be_read_is_refused(path):
    line = refusal(lambda: Environment({"NAME_FILE": path}).text("NAME"), SECRET)
    assert "NAME_FILE" in line


def test_a_file_that_is_no_text_is_refused(secret):
    refusal(lambda: secret(b"\xff\xfe\x00").text("NAME"))


# --- .env ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=a", "a"),
        ("  NAME = a  ", "a"),
        ("export NAME=a\r", "a"),
        ("NAME=", ""),
        ("NAME=$a#b", "$a#b"),
        ("NAME=#a", "#a"),
        ("NAME=a # what it is for", "a"),
        ("NAME= # nothing", ""),
        ("NAME='$a # b'", "$a # b"),
        ("NAME='$a # b'  # what it is for", "$a # b"),
        ('NAME="$a # b" ', "$a # b"),
        ('NAME="a\\"b" # what it is for', 'a"b'),
        ('NAME="\\$a"', "$a"),
        ("NAME=a'b", "a'b"),
        ("NAME=a=b==", "a=b=="),
        ("NAME=postgres://u:p%40s$s@h/n?x=1", "postgres://u:p%40s$s@h/n?x=1"),
    ],
)
def test_a_line_of_dotenv_is_read_as_it_is_meant(line, value):
    assert read_dotenv(f"# Comment\n\n   # another\n{line}\nLAST=1") == {"NAME": value, "LAST": "1"}


@pytest.mark.parametrize("line", [SECRET, f"NAME: {SECRET}", f"A B={SECRET}", f"={SECRET}"])
def test_a_line_that_says_nothing_is_refused_by_its_number(line, caplog, capfd):
    with pytest.raises(ImproperlyConfigured, match=r"^Line 2 of \.env must be NAME=value\.$"):
        read_dotenv(f"NAME=a\n{line}\n")
    assert SECRET not in caplog.text + str(capfd.readouterr())


@pytest.mark.parametrize("given", [{"NAME": "given"}, {"NAME_FILE": "given"}, {"NAME": ""}])
def test_the_environment_comes_before_dotenv(given):
    for dotenv in ({"NAME": "dotenv"}, {"NAME_FILE": "dotenv"}):
        assert Environment(given, dotenv).values == given


def test_dotenv_is_read_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("GIVEN", "given")
    path = tmp_path / ".env"
    assert load(path).text("NAME", "none") == "none"
    path.write_bytes(b"\xef\xbb\xbfNAME=dotenv\r\nGIVEN=dotenv\r\n")
    assert [load(path).text(name) for name in ("NAME", "GIVEN")] == ["dotenv", "given"]
    assert "NAME" not in os.environ
    path.write_bytes(b"NAME=\xff")
    with pytest.raises(ImproperlyConfigured, match=r"\.env must be a text file"):
        load(path)


def test_libraries_find_what_they_look_for_themselves(monkeypatch):
    monkeypatch.setattr(os, "environ", given := {"DIRECTORY": " /tmp \n", "BLANK": " ", "A": " a "})
    Environment(given, {"B": "b", "A": "other"}).publish("DIRECTORY", "BLANK", "NONE")
    assert given == {"DIRECTORY": "/tmp", "A": " a ", "B": "b"}


def test_what_libraries_find_is_read_the_same_way_by_a_child(monkeypatch, tmp_path):
    (file := tmp_path / "directory").write_text("/tmp\n")
    given = {"DIRECTORY_FILE": str(file)}
    monkeypatch.setattr(os, "environ", given)
    for _process in range(2):
        Environment(dict(given)).publish("DIRECTORY")
        assert given == {"DIRECTORY": "/tmp"}


def test_what_cannot_be_read_changes_nothing(monkeypatch):
    """Django reads settings that were refused once more, for some commands."""
    both = {"DIRECTORY": "/tmp", "DIRECTORY_FILE": "/tmp/directory"}
    monkeypatch.setattr(os, "environ", given := dict(both))
    for _time in range(2):
        with pytest.raises(ImproperlyConfigured, match="both set"):
            Environment(given).publish("DIRECTORY")
        assert given == both


# --- The site -----------------------------------------------------------------------------------


def test_nothing_else_reads_the_environment():
    """But for what libraries look for themselves, and the name of the settings."""
    allowed = {"project/env.py", "integrations/http.py", "integrations/metrics.py"}
    allowed |= {"integrations/garminconnect/client.py"}
    found = {
        path.relative_to(BASE_DIR).as_posix()
        for package in ("project", "integrations")
        for path in (BASE_DIR / package).rglob("*.py")
        if "sandbox" not in path.parts
        for line in path.read_text().splitlines()
        if re.search(r"os\.environ|getenv|environ\.Env", line) and "DJANGO_SETTINGS" not in line
    }
    assert found == allowed


@pytest.fixture
def made(monkeypatch):
    """What a module makes of an environment."""

    def made(path, given):
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(os, "environ", given)
        monkeypatch.setattr(env, "load", lambda: Environment(given))
        spec = spec_from_file_location("project.another", path)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return made


@pytest.fixture
def site(made):
    """What project/settings.py makes of an environment."""
    return lambda **given: made(SETTINGS, {**PRODUCTION, **given})


def test_a_site_is_set_up_from_files_with_odd_keys(site, tmp_path):
    files = {
        "SECRET_KEY": "$" + PRODUCTION["SECRET_KEY"] + "\n",
        "FERNET_KEYS": PRODUCTION["FERNET_KEYS"].replace(",", "\n") + "\n",
        "DATABASE_URL": f"sqlite:///{tmp_path}/a+b.sqlite3\n",
        "DEBUG": "Off\n",
    }
    given = {}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        given |= {name: "", f"{name}_FILE": str(tmp_path / name)}
    found = site(
        **given,
        ALLOWED_HOSTS=" a.example ,\nb.example ",
        STRAVA_SCOPES="read activity:read",
        FORWARDED_ALLOW_IPS="10.0.0.1, 10.0.0.2",
    )
    assert files["SECRET_KEY"].strip() == found.SECRET_KEY
    assert PRODUCTION["FERNET_KEYS"].split(",") == found.FERNET_KEYS
    assert found.DATABASES["default"]["NAME"] == f"{tmp_path}/a+b.sqlite3"
    assert found.DEBUG is False
    assert found.ALLOWED_HOSTS == ["a.example", "b.example"]
    assert found.STRAVA_SCOPES == ["read", "activity:read"]
    assert found.TRUSTED_PROXIES == ["10.0.0.1", "10.0.0.2"]


def test_blank_variables_change_nothing(site):
    blank = dict.fromkeys(re.findall(r'env\.\w+\(\s*"(\w+)"', SETTINGS.read_text()), " ")
    assert len(blank) > 20
    given = {name: value for name, value in blank.items() if name not in PRODUCTION}
    plain, spaced = vars(site()), vars(site(**given))
    for name, value in plain.items():
        if name.isupper():
            assert spaced[name] == value, name
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_the_public_address_says_where_the_site_begins_and_whose_forms_it_takes(site):
    found = site(
        INTEGRATIONS_BASE_URL="https://A.example:443/sub/",
        CSRF_TRUSTED_ORIGINS="http://b, https://c/",
    )
    assert found.CSRF_TRUSTED_ORIGINS == ["http://b", "https://c", "https://a.example"]
    assert found.FORCE_SCRIPT_NAME == found.SESSION_COOKIE_PATH == found.CSRF_COOKIE_PATH == "/sub"
    assert found.SECURE_REDIRECT_EXEMPT == ["^sub/healthz/$", "^sub/metrics$"]
    assert (
        site(INTEGRATIONS_BASE_URL="https://a.example", SCRIPT_NAME="x").FORCE_SCRIPT_NAME == "/x"
    )
    plain = site()
    assert plain.FORCE_SCRIPT_NAME is None
    assert (plain.SESSION_COOKIE_PATH, plain.CSRF_TRUSTED_ORIGINS) == ("/", [])


def test_a_sub_path_that_is_none_is_refused_by_the_name_that_has_it(site):
    with pytest.raises(ImproperlyConfigured, match="INTEGRATIONS_BASE_URL must have a path"):
        site(INTEGRATIONS_BASE_URL="https://a.example/-")
    with pytest.raises(ImproperlyConfigured, match="SCRIPT_NAME must be a path"):
        site(INTEGRATIONS_BASE_URL="https://a.example/sub", SCRIPT_NAME="-")


def test_plain_http_has_to_be_asked_for(site):
    names = ["SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"]
    names += ["SECURE_HSTS_SECONDS"]
    assert all(getattr(site(), name) for name in names)
    assert all(getattr(site(INSECURE_HTTP="off"), name) for name in names)
    insecure = site(INSECURE_HTTP="on")
    assert insecure.DEBUG is False
    assert not any(hasattr(insecure, name) for name in names)


def test_cookies_are_named_so_that_no_other_host_can_set_them(site):
    def names(**given):
        found = site(**given)
        return found.SESSION_COOKIE_NAME, found.CSRF_COOKIE_NAME, found.COOKIE_PREFIX

    assert names() == ("__Host-sessionid", "__Host-csrftoken", "__Host-")
    found = site()
    # What browsers ask of the name, or they would drop the cookie.
    assert found.SESSION_COOKIE_PATH == found.CSRF_COOKIE_PATH == "/"
    assert not hasattr(found, "SESSION_COOKIE_DOMAIN")
    assert not hasattr(found, "CSRF_COOKIE_DOMAIN")
    below = names(SCRIPT_NAME="/sub")
    assert below == ("__Secure-sessionid", "__Secure-csrftoken", "__Secure-")
    for plain in ({"INSECURE_HTTP": "on"}, {"DEBUG": "on"}):
        assert not hasattr(site(**plain), "SESSION_COOKIE_NAME")  # Django's


@pytest.mark.parametrize("name", ["DATABASE_URL", "CACHE_URL", "CELERY_BROKER_URL"])
def test_an_address_that_would_be_misread_stops_the_site(site, name):
    scheme = {"DATABASE_URL": "postgres", "CACHE_URL": "redis", "CELERY_BROKER_URL": "amqp"}
    given = {"TASKS_BACKEND": "celery", "CELERY_BROKER_URL": "amqp://127.0.0.1:9//"}
    given[name] = f"{scheme.get(name, 'https')}://u:12/{SECRET}@127.0.0.1/n"
    with pytest.raises(ImproperlyConfigured, match=f"^{name} .*percent-encoded") as caught:
        site(**given)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["STRAVA_OAUTH_URL", "POLAR_API_URL", "WAHOO_CLIENT_SECRET_FILE"])
def test_a_malformed_variable_of_a_provider_stops_the_site_in_one_line(name):
    value = f"/nowhere/{SECRET}" if name.endswith("_FILE") else f"https://u:12/{SECRET}@127.0.0.1/n"
    code, out, err = manage("check", **{**PRODUCTION, name: value})
    assert code == 1
    assert re.fullmatch(rf"Configuration error: {name} must .*\n", err)
    assert SECRET not in out + err


@pytest.mark.parametrize(
    "path",
    [
        "strava",
        "integrations.polar.Polar",
        "integrations.polar.provider.Poler",
        "integrations.polar.provider.PolarClient",
        "integrations.oauth.provider.OAuthProvider",
        "integrations.oauth.provider.split_scope",
    ],
)
def test_a_path_that_leads_to_no_provider_stops_the_site_in_one_line(path):
    code, _out, err = manage("check", **{**PRODUCTION, "INTEGRATIONS_PROVIDERS": path})
    assert code == 1
    assert re.fullmatch(
        rf"Configuration error: INTEGRATIONS_PROVIDERS names {re.escape(path)}, which .*\n", err
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOCKER_API_URL", "unix:///var/run/docker.sock"),
        ("KEYCLOAK_TOKEN_URL", "/realms/a/token"),
        ("AZURE_CLIENT_SECRET_FILE", "/nowhere"),
    ],
)
def test_a_variable_of_another_program_stops_nothing(name, value):
    code, _out, err = manage("check", **{**PRODUCTION, name: value})
    assert code == 0, err


def test_the_operator_reads_one_line():
    url = f"postgres://u:pa/{SECRET}@127.0.0.1/n"
    code, out, err = manage("check", **{**PRODUCTION, "DATABASE_URL": url})
    assert code == 1
    assert err.startswith("Configuration error: DATABASE_URL must be")
    assert len(err.strip().splitlines()) == 1
    assert SECRET not in out + err


def test_gunicorn_reads_the_environment_as_the_site_does(made, tmp_path):
    (tmp_path / "proxies").write_text("10.0.0.1\n10.0.0.2\n")
    given = {
        "WEB_CONCURRENCY": " 3 ",
        "FORWARDED_ALLOW_IPS": "",
        "FORWARDED_ALLOW_IPS_FILE": str(tmp_path / "proxies"),
    }
    config = made(BASE_DIR / "gunicorn.conf.py", given)
    assert (config.workers, config.forwarded_allow_ips) == (3, "10.0.0.1,10.0.0.2")
    config = made(BASE_DIR / "gunicorn.conf.py", {})
    assert (config.workers, config.forwarded_allow_ips) == (1, "127.0.0.1,::1")
    with pytest.raises(SystemExit, match=r"^Configuration error: WEB_CONCURRENCY must be"):
        made(BASE_DIR / "gunicorn.conf.py", {"WEB_CONCURRENCY": SECRET})
