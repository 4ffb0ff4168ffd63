"""Classes and neurons taken apart, one analysis a file."""
