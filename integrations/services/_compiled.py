"""Statements that Django's compiler writes once, and a cursor runs from then on.

For a row by its key, the ORM spends more time on writing the SQL than the database on running it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import connections, router
from django.db.models import Q
from django.db.models.base import ModelState
from django.db.models.expressions import RawSQL
from django.db.models.sql import UpdateQuery

from ..clock import dated
from ..fields import EncryptedTextField, Sealed

# Among the parameters of a compiled statement: here goes a value of the call's.
_GIVEN = object()
_ALWAYS = Q()


class _Select(NamedTuple):
    sql: str
    attributes: list[str]
    compiler: Any
    converters: dict[int, Any]


def find(model: Any, where: dict[str, Any], names: Any = (), *, lock: bool = False) -> Any:
    """`dated(model.objects.filter(**where).only(*names)).first()` for plain values and unique rows.

    With `lock`, the row is locked until the transaction ends; for use within atomic().
    """
    alias = router.db_for_write(model) if lock else router.db_for_read(model)
    select = _select(model, alias, tuple(where), tuple(names), lock)
    connection = connections[alias]
    with connection.cursor() as cursor:
        try:
            cursor.execute(select.sql, list(_prepared(model, where, connection)))
        except OverflowError:  # SQLite: no row has such a number
            return None
        found = cursor.fetchone()
    if found is None:
        return None
    [values] = select.compiler.apply_converters([found], select.converters)
    return made(model, alias, dict(zip(select.attributes, values, strict=True)))


def made(model: Any, alias: str, attributes: dict[str, Any]) -> Any:
    """An instance that is stored, made as pickle makes one.

    For 50 columns, __init__ takes longer than the database.
    """
    row = model.__new__(model)
    row.__dict__.update(attributes)
    row._state = ModelState()
    row._state.db, row._state.adding = alias, False
    return row


@lru_cache(maxsize=64)
def _select(
    model: Any, alias: str, where: tuple[str, ...], names: tuple[str, ...], lock: bool
) -> _Select:
    rows = dated(_having(model, alias, where)).only(*names)
    compiler = (rows.select_for_update() if lock else rows).query.get_compiler(alias)
    sql, _ = compiler.as_sql()
    selected = [expression for expression, _, _ in compiler.select]
    attributes = [*(column.target.attname for column in selected[:-1]), "read_at"]
    return _Select(sql, attributes, compiler, compiler.get_converters(selected))


def update_where(
    model: Any, where: dict[str, Any], columns: dict[str, Any], only_if: Q = _ALWAYS
) -> int:
    """`model.objects.filter(only_if, **where).update(**columns)`, where `where` has plain values.

    Expressions among the columns, and `only_if`, are compiled, too: none may hold a value of this
    call's.
    """
    alias = router.db_for_write(model)
    connection = connections[alias]
    plain, expressions = _split(columns)
    sql, params = _update(model, alias, expressions, tuple(where), only_if)
    given = _prepared(model, plain, connection)
    filled = [next(given) if param is _GIVEN else param for param in params]
    with connection.cursor() as cursor:
        cursor.execute(sql, [*filled, *_prepared(model, where, connection)])
        return int(cursor.rowcount)


@lru_cache(maxsize=256)
def _update(
    model: Any,
    alias: str,
    columns: tuple[tuple[str, Any], ...],
    where: tuple[str, ...],
    only_if: Q,
) -> tuple[str, list[Any]]:
    query = _having(model, alias, where).filter(only_if).query.chain(UpdateQuery)
    query.add_update_values({name: expression or _given() for name, expression in columns})
    sql, params = query.get_compiler(alias).as_sql()
    return sql, list(params[: len(params) - len(where)])


def insert(model: Any, columns: dict[str, Any]) -> Any:
    """Insert a row of these columns alone; returns its key. Expressions may have no parameters."""
    alias = router.db_for_write(model)
    connection = connections[alias]
    plain, expressions = _split(columns)
    sql, has_key = _insert(model, alias, expressions)
    with connection.cursor() as cursor:
        cursor.execute(sql, list(_prepared(model, plain, connection)))
        if has_key:
            return cursor.fetchone()[0]
        table, key = model._meta.db_table, model._meta.pk.column
        return connection.ops.last_insert_id(cursor, table, key)


@lru_cache(maxsize=16)
def _insert(model: Any, alias: str, columns: tuple[tuple[str, Any], ...]) -> tuple[str, bool]:
    connection = connections[alias]
    quote, options = connection.ops.quote_name, model._meta
    compiler = model.objects.using(alias).query.get_compiler(alias)
    names = ", ".join(quote(options.get_field(name).column) for name, _ in columns)
    values = ", ".join("%s" if e is None else compiler.compile(e)[0] for _, e in columns)
    sql = f"INSERT INTO {quote(options.db_table)} ({names}) VALUES ({values})"  # noqa: S608
    if not connection.features.can_return_columns_from_insert:
        return sql, False
    return f"{sql} {connection.ops.returning_columns([options.pk])[0]}", True


def _having(model: Any, alias: str, names: Iterable[str]) -> Any:
    """Rows by conditions with one parameter each, in this order."""
    rows = model.objects.using(alias)
    for name in names:
        is_secret = isinstance(model._meta.get_field(name), EncryptedTextField)
        rows = rows.filter(**{name: Sealed(b"") if is_secret else _given()})
    return rows


def _given() -> RawSQL:
    return RawSQL("%s", [_GIVEN])


def _split(columns: dict[str, Any]) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """The plain values; and all names in their order, each with its expression or None."""
    expressions = {
        name: value for name, value in columns.items() if hasattr(value, "resolve_expression")
    }
    plain = {name: value for name, value in columns.items() if name not in expressions}
    return plain, tuple((name, expressions.get(name)) for name in columns)


def _prepared(model: Any, values: dict[str, Any], connection: Any) -> Iterator[Any]:
    for name, value in values.items():
        yield model._meta.get_field(name).get_db_prep_save(value, connection)
