"""The full-text index answers alike on both databases."""

from __future__ import annotations

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from reviewqueue.db import db, transaction
from reviewqueue.examples import search

DOCUMENTS = {
    "exa_a": "How do I return a bicycle that is too small?",
    "exa_b": "Where is my parcel? It should have come on Monday.",
    "exa_c": "Wie schicke ich ein Fahrrad zurück?",
    "exa_d": "自転車を返品したいのですが",
    "exa_e": "The parcel came, but the bell of the bicycle is missing.",
}


@pytest.fixture
def indexed(base: Flask) -> None:
    with transaction():
        for owner, content in DOCUMENTS.items():
            search.add("example:prj_one", owner, content)
        search.add("example:prj_two", "exa_z", DOCUMENTS["exa_a"])


def owners(content: str, scope: str = "example:prj_one") -> list[str]:
    return [hit.owner for hit in search.nearest(scope, content)]


@pytest.mark.usefixtures("indexed")
class TestNearest:
    def test_nearest_puts_the_same_words_first_with_score_one(self) -> None:
        for owner, content in DOCUMENTS.items():
            best = search.nearest("example:prj_one", content)[0]
            assert (best.owner, best.score) == (owner, pytest.approx(1.0))

    def test_nearest_stays_within_its_scope(self) -> None:
        assert owners(DOCUMENTS["exa_a"], "example:prj_two") == ["exa_z"]
        assert "exa_z" not in owners(DOCUMENTS["exa_a"])

    def test_nearest_finds_words_without_accents_and_in_any_case(self) -> None:
        assert owners("ZURUCK") == ["exa_c"]

    def test_nearest_finds_scripts_without_spaces(self) -> None:
        assert owners("返品") == ["exa_d"]

    def test_nearest_finds_nothing_for_words_nobody_used(self) -> None:
        assert owners("quantum chromodynamics") == []
        assert owners("") == []
        assert owners("?! —") == []

    @pytest.mark.parametrize(
        "hostile",
        ['" OR 1=1 --', "bicycle' | '", "a:b*", "NEAR(x y)", "NOT", "AND", "\\", "owner:exa_a", "%' --"],
    )
    def test_nearest_takes_a_query_language_for_words(self, hostile: str) -> None:
        search.nearest("example:prj_one", hostile)

    def test_remove_takes_a_document_out_and_counts_back(self) -> None:
        with transaction():
            search.remove("example:prj_one", "exa_b")
        assert "exa_b" not in owners(DOCUMENTS["exa_b"])
        count = text("SELECT documents FROM search_term WHERE scope = 'example:prj_one' AND term = :term")
        assert db.session.execute(count, {"term": "parcel"}).scalar_one() == 1
        assert db.session.execute(count, {"term": ""}).scalar_one() == 4

    def test_add_again_replaces(self) -> None:
        with transaction():
            search.add("example:prj_one", "exa_a", "Something else entirely")
        assert owners("entirely") == ["exa_a"]
        assert "exa_a" not in owners("return too small")

    @hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=80))
    def test_nearest_finds_whatever_was_added(self, content: str) -> None:
        with transaction():
            search.add("example:prj_fuzz", "exa_fuzz", content)
        found = owners(content, "example:prj_fuzz")
        assert found == (["exa_fuzz"] if search.words(content) else [])


def test_likeness_is_the_share_of_common_words() -> None:
    assert search.likeness(frozenset("abc"), frozenset("bcd")) == 0.5
    assert search.likeness(frozenset(), frozenset()) == 1.0
