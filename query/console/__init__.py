"""People's SQL: asked in a child process, which the operating system holds to its memory and its time."""
