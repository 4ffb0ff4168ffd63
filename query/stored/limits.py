"""What is said where a query goes beyond its time or its memory: fact and remedy. Light to import."""

from __future__ import annotations

TOO_MUCH = ("the query needs more memory or scratch space than it may have", "Ask for less: add LIMIT, or aggregate.")


def late(timeout: float) -> tuple[str, str]:
    """Of a query that was stopped after so many seconds."""
    return f"stopped after {timeout:g} s", "Ask for less, or give more time (--timeout)."
