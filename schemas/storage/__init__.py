"""Bytes of an index: how they are read, checked and written."""
