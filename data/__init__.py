"""Image sources, decoding, and the packaged sample."""
