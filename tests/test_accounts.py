"""Whose link it is, by what a provider says."""

from __future__ import annotations

import pytest

from integrations.exceptions import InvalidProviderReply
from integrations.links import Account


@pytest.mark.parametrize(
    ("said", "stored"), [(7, "7"), ("i80001", "i80001"), ("x" * 255, "x" * 255)]
)
def test_an_id_is_a_number_or_a_text(said, stored):
    assert Account.read(said).id == stored


@pytest.mark.parametrize(
    "said",
    [None, True, 1.5, "", "x" * 256, ["7"], {"id": 7}],
    ids=["nothing", "yes", "fraction", "empty", "too-long", "list", "object"],
)
def test_anything_else_is_no_id_and_nothing_is_cut_off(said):
    with pytest.raises(InvalidProviderReply):
        Account.read(said)


def test_a_name_is_put_together_from_what_is_text_and_cleaned():
    assert Account.read(7, "Bjørn", None, 3, "Ångström\x00").name == "Bjørn Ångström"
    assert Account.read(7).name == ""
