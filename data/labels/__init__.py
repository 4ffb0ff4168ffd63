"""Names of classes, and which class an image belongs to."""
