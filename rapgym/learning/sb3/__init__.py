"""What Stable-Baselines3 needs to learn in these worlds."""
