"""The comparisons of `scripts/compare.py`: necks, heads and budgets."""
