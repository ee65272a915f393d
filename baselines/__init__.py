"""Methods to compare with, one file each: settings, decision, tuning. None imports another."""
