"""The live model: the only place of the package that imports torch and transformers."""
