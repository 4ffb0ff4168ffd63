"""Every error a user can cause. Inner code states the fact; the command line prints it with the remedy."""

from __future__ import annotations

REPAIR = "Repeat the 'vitdex index' command that made it with --repair."
STRANGE = "Do not use an index from there."  # it is sealed, and vitdex never wrote it so


class VitdexError(Exception):
    """Base of all errors that vitdex raises on purpose: one line of fact, one of remedy."""

    def __init__(self, fact: str, remedy: str = "") -> None:
        super().__init__(fact)
        self.fact, self.remedy = fact, remedy

    def __str__(self) -> str:
        fact = super().__str__()
        return f"{fact}. {self.remedy}" if self.remedy else fact


class VitdexWarning(UserWarning):
    """Something that a user wants to know, while the work goes on. The command line prints it as a line."""


class SourceError(VitdexError):
    """The images cannot be listed: missing, empty or of a kind that is not supported."""


class UnreadableImage(VitdexError):
    """One image cannot be decoded; it is recorded as a failure and the run goes on."""


class ModelError(VitdexError):
    """The model, its weights or its head cannot be used."""


class BadRequest(VitdexError):
    """An index is asked for with a setting that there is not."""


class BadIndex(VitdexError):
    """An index is missing, unfinished, damaged, of another format, or in the way."""


class DamagedIndex(BadIndex):
    """A finished index whose files are not as they were made: `vitdex verify` names them, --repair makes them again.

    Every door that reads an index raises this one, with the same remedy, for every kind of damage.
    """

    def __init__(self, fact: str, remedy: str = REPAIR) -> None:
        super().__init__(fact, remedy)


class QueryError(VitdexError):
    """A question names something that the index does not hold, or SQL that may not run."""
