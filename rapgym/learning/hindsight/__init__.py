"""Learning from the exact costs of every choice, known in hindsight."""
