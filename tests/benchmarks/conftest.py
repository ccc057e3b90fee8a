"""Puts the folder of the benchmarks on the path, as running one of them does."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'))
