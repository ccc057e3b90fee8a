"""Studies of `scripts/evidence.py`: plans of trainings, what is measured, and the page."""
