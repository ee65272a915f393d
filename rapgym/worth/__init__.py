"""Is run-time pruning worth it: what else could be done on a card, and which of it is cheapest."""
