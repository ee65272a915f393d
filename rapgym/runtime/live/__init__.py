"""A live model whose blocks leave and return, serving rows."""
