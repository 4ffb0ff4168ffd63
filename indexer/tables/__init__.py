"""From the arrays of a filled index to its tables."""
