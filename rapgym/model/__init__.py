"""A model's shape, its blocks and their bytes, and what a device adds."""
