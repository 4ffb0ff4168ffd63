"""Many workers that fill one index: leases of its parts, joining, a Ray cluster."""
