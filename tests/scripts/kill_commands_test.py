"""Killed conversions leave the earlier records or none, and the next one works."""
import random

import pytest

import kill_commands


class _Moments(random.Random):
  """Chooses each time to wait until files are written."""

  def random(self):
    return 0.25


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_half_written(sample_records, tmp_path):
  convert = kill_commands.commands(tmp_path, sample_records.parent / 'coco')['convert']
  convert.output.parent.mkdir()
  choices = _Moments(0)
  assert not kill_commands.kill(convert, choices, 1)
  assert not convert.output.exists()
  kill_commands.run(convert)
  before = kill_commands.digest(convert.output)
  assert not kill_commands.kill(convert, choices, 1)
  assert kill_commands.digest(convert.output) == before
  assert not kill_commands.try_once(convert, choices, 1)


def test_half_written_records_are_noticed(tmp_path, monkeypatch):
  convert = kill_commands.commands(tmp_path, tmp_path)['convert']
  convert.output.mkdir(parents=True)
  writes = 'import pathlib, time; pathlib.Path({!r}).write_text("{{"); time.sleep(60)'
  monkeypatch.setattr(kill_commands, '_start', lambda command: kill_commands.subprocess.Popen(
      [kill_commands.sys.executable, '-c', writes.format(str(command.output / 'dataset.json'))],
      stdout=kill_commands.subprocess.PIPE, text=True))

  class Late(random.Random):
    def random(self):
      return 0.9

  assert 'is damaged' in kill_commands.kill(convert, Late(0), 3)
