"""Arrays and tables in, pictures out. Never sees an index."""
