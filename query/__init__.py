"""Questions to a finished index. Never imports the indexer; light to import."""

from .index import Index

__all__ = ["Index"]
