"""The model behind an index, run again. Imports torch."""
