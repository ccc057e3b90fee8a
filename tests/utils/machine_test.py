"""A machine is described by its processor."""
import os

import pytest

from official_ext.utils import machine


@pytest.mark.parametrize('content, expected', [
    ('processor\t: 0\nmodel name\t: Fast One @ 2 GHz\nmodel name\t: Other\n', 'Fast One @ 2 GHz'),
    ('Hardware : board', 'kind'), (None, 'kind')])
def test_the_processor_is_named(tmp_path, monkeypatch, content, expected):
  if content is not None:
    (tmp_path / 'cpuinfo').write_text(content)
  monkeypatch.setattr(machine, '_PROCESSORS', tmp_path / 'cpuinfo')
  monkeypatch.setattr(machine.platform, 'processor', lambda: '')
  monkeypatch.setattr(machine.platform, 'machine', lambda: 'kind')
  monkeypatch.setattr(machine.platform, 'system', lambda: 'System')
  monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {3}, raising=False)
  described = machine.describe()
  assert described == {'processor': expected, 'cores': 1, 'system': 'System kind'}
  assert machine.text(described) == f'{expected}, 1 core, System kind'
  assert machine.text({**described, 'cores': 2}).startswith(f'{expected}, 2 cores, ')
