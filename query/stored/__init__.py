"""What an index holds: SQL, names, arrays, maps. No torch, no drawing, no question."""
