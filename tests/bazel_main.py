"""Runs the test file that Bazel names; see BUILD."""
import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(sys.argv[1:]))
