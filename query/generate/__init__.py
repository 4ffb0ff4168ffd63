"""Images on demand that excite a neuron. Imports torch."""
