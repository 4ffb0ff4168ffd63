"""What comes in: images, models, labels, and the packaged sample."""
