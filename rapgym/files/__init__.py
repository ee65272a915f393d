"""Files: where they lie, how they are read against limits, and which code wrote them."""
