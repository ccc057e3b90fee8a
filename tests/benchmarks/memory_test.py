"""The peak memory of a step is that of the step, in whatever process it runs."""
import pathlib

import memory
import numpy as np
import pytest

_STEP = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import memory
np.ones(2**24)  # 128 MB before the step, which must not count
print(memory.added_by(lambda: np.ones(2**23)))  # 64 MB
"""


@pytest.mark.slow
def test_memory_of_a_process_is_not_that_of_the_process_that_started_it(tmp_path):
  held = np.ones(2**26)  # 512 MB
  file = tmp_path / 'step.py'
  file.write_text(_STEP, encoding='utf-8')
  added = memory.of_process(str(file), [str(pathlib.Path(memory.__file__).parent)])
  assert added == pytest.approx(64, abs=8)
  del held
