"""What stands between a policy and the step: guard, watchdog, and a process of its own."""
