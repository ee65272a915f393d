"""What training needs beside environments: the only package next to runtime/ that knows torch."""
