"""What can be known: controllers against twins whose futures have a known distribution."""
