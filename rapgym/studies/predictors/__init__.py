"""Which predictor answers best for kept sets that were not measured."""
