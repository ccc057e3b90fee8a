"""Runs pytest on the file that a test target of BUILD names."""
import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(sys.argv[1:]))
