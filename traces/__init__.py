"""Series that the shipped scenarios consume, and where they came from; see README.md here."""
