"""Neurons over the images that the model saw."""
