"""Questions that stored facts answer, each in one place."""
