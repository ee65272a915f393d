"""What a kept set costs: measured tables, and a predictor for what was not measured."""
