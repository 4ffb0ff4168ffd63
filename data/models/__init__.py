"""Models as they come: loaded, taken apart, proved by a probe run."""
