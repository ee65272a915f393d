"""What a policy is, and the reference policies; the other methods lie in `rapgym.baselines`."""
