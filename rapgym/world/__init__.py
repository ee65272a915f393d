"""The world of RAP-v0: one row in B lanes, as pure functions of arrays."""
