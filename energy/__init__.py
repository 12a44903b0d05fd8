"""Operation counts, cost models, energy reports."""
