"""Physical stories from which every number of a world follows."""
