"""What other tools read: MILAN, CLIP-Dissect, Parquet, CSV."""
