"""The scripts that made the packaged sample."""
