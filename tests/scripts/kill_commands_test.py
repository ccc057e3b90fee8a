"""Killed conversions leave the earlier records or none, and the next one works."""
import random
import time

import pytest

import drawn_data
import kill_commands


class _Moments(random.Random):
  """Chooses always the same number in [0, 1), and the first of several things."""

  def __init__(self, number: float):
    super().__init__(0)
    self._number = number

  def random(self):
    return self._number

  def choice(self, sequence):
    return sequence[0]


# Kills soon after the command began to write.
_WHILE_WRITING = _Moments(0.1)


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_half_written(tmp_path):
  images = [drawn_data.DrawnImage(f'im{number:03d}', f'{number}.png', 200, 150,
                                  [drawn_data.Box('red', 20, 30, 40, 50)]) for number in range(200)]
  drawn_data.write_coco(drawn_data.DataSet(
      'coco', {'train': images[:150], 'val': images[150:]}, {'red': 1}), tmp_path / 'coco')
  convert = kill_commands.commands(tmp_path, tmp_path / 'coco')['convert']
  convert.output.parent.mkdir()
  # What is there before is removed, so that the command is killed while it writes the first time.
  assert not kill_commands.try_once(convert, _WHILE_WRITING, 1)
  before = kill_commands.digest(convert.output)
  assert not kill_commands.kill(convert, _WHILE_WRITING, 1)
  assert kill_commands.digest(convert.output) == before
  assert len(list(convert.output.parent.iterdir())) == 2, 'the command was not killed in time'


def test_half_written_records_are_noticed(tmp_path, monkeypatch):
  convert = kill_commands.commands(tmp_path, tmp_path)['convert']
  convert.output.mkdir(parents=True)

  def write_half(unused_arguments, unused_log):
    (convert.output / 'dataset.json').write_text('{', encoding='utf-8')
    time.sleep(60)
  monkeypatch.setattr(kill_commands, '_run_module', write_half)
  assert 'is damaged' in kill_commands.kill(convert, _Moments(0.9), 4)
