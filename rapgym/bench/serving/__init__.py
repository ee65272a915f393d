"""The bench of the serving world: cells, scores, results, and their replay."""
