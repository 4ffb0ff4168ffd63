"""What is gathered of neurons over all images: counts, ranks, exemplars."""
