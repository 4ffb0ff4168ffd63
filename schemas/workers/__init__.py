"""Many workers that fill one folder: leases of its parts, beats, who finishes."""
