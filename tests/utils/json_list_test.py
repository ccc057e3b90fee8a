"""A list is written item by item and read back as a whole."""
import json

import pytest

from official_ext.utils import json_list


@pytest.mark.parametrize('parts', [[], [[]], [[1]], [[1, {'a': 'ü\udce9'}], [], ['b', None]]])
def test_parts_become_one_list(tmp_path, parts):
  with json_list.writer(tmp_path / 'a.json') as append:
    for part in parts:
      append(part)
  text = (tmp_path / 'a.json').read_text(encoding='utf-8')
  assert json.loads(text) == [item for part in parts for item in part]
  assert len(text.splitlines()) == 2 + sum(map(len, parts))
