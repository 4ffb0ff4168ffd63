"""The atlas: an index as pages for a browser, served or written to a folder."""
