"""What users add beside an index: descriptions and generated images."""
