"""Pages that are generated from result files."""
