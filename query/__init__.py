"""Questions to a finished index. Never imports the indexer; light to import."""
