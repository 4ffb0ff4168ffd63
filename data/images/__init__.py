"""Images as they come: sources that list files, decoding, preprocessing."""
