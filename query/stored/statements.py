"""Which SQL may be asked: one statement that reads, in DuckDB's own opinion."""

from __future__ import annotations

import re
from itertools import islice

import duckdb

from ...schemas.errors import QueryError

ASKED = "SELECT, FROM, WITH, DESCRIBE, SHOW or EXPLAIN"

# DuckDB tells the kind of a statement, but not of the one that EXPLAIN holds (EXPLAIN ANALYZE runs it), nor of the one
# around a PIVOT (MULTI). These two are known by their first words; no other statement can begin with them.
PLAIN = duckdb.StatementType.SELECT
BY_WORDS = {duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}
_OPTION = r"(ANALYZE|FORMAT \w+)"
_READING = re.compile(
    rf"(EXPLAIN (ANALYZE )?(\( {_OPTION}( , {_OPTION})* \) )?)?"
    r"(\( )*(SELECT|FROM|WITH|VALUES|TABLE|DESCRIBE|DESC|SHOW|SUMMARIZE|PIVOT|PIVOT_WIDER|UNPIVOT|PIVOT_LONGER) "
)
WORDS = 16  # more than all that may come before the first word of a statement


def check_reads(db: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raise QueryError unless a query is one statement that reads. `db` parses it, no more.

    What writes inside a statement that reads (INSERT in a WITH, of DuckDB 2) shows where it runs: see Tables.ask.
    """
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise QueryError("the query is not UTF-8", "Write it in UTF-8.") from error
    statements = db.extract_statements(query)
    if len(statements) != 1:
        raise QueryError(f"{len(statements) or 'no'} statements in the query", f"Ask with one: {ASKED}.")
    if not _reads(statements[0], query):
        raise QueryError("an index can only be read", f"Ask with {ASKED}.")


def _reads(statement: duckdb.Statement, query: str) -> bool:
    try:
        kind = statement.type
    except ValueError:  # of a kind that DuckDB's Python does not know, such as UPDATE EXTENSIONS
        return False
    return kind == PLAIN or (kind in BY_WORDS and _READING.match(_first_words(query)) is not None)


def _first_words(query: str) -> str:
    """The first words and signs of a query in capitals, a space after each, without comments."""
    text = query.encode()  # the tokens' places count bytes
    places = (at for at, kind in duckdb.tokenize(query) if kind != duckdb.token_type.comment)
    words = (re.match(rb"\w+|.", text[at : at + 64], re.DOTALL) for at in islice(places, WORDS))
    return "".join(f"{word[0].decode('ascii', 'replace')} " for word in words if word).upper()
