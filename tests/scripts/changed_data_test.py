"""Trainings on data that have changed are not compared."""
import argparse
import json

from comparisons import comparison
import pytest

from official_ext.utils import command_line

FILES = {'annotations/train.json': '[]', 'annotations/val.json': '{}', 'train-0.tfrecord': 'few'}


class Comparison(comparison.Comparison):
  """Runs of one experiment."""

  def resolve(self, name, args):
    return comparison.Run('retinanet_fpn_efficientnetlite0_sample')

  def summarize(self, params, evaluation):
    return evaluation

  def table(self, results, milliseconds):
    return ''


@pytest.mark.parametrize('file', FILES)
def test_runs_on_data_that_have_changed_are_not_compared(file, tmp_path, monkeypatch):
  written, ran = dict(FILES), []

  def command(module, **options):
    ran.append(module)
    if module == 'train':
      (options['model_dir'] / 'validation').mkdir(parents=True)
      return
    (options['output_dir'] / 'annotations').mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
      (options['output_dir'] / name).write_text(content)

  monkeypatch.setattr(comparison, 'command', command)
  monkeypatch.setattr(comparison, 'last_evaluation', lambda _: {'AP': 0.5})
  monkeypatch.setattr(comparison.experiment, 'resolve', lambda *args, **options: None)
  monkeypatch.setattr(comparison.data_lib, 'check_objects', lambda *_: None)
  args = argparse.Namespace(command='', data='data', output_dir=tmp_path, train_steps=None)
  for names in (['a'], ['a', 'b']):
    comparison.run_all(Comparison(), names, args)
  trained = ['tools.convert_dataset', 'train', 'tools.convert_dataset', 'train']
  assert ran == trained
  assert json.loads((tmp_path / 'a-1' / 'result.json').read_text()) == {'AP': 0.5}
  written[file] = 'more of it'
  with pytest.raises(command_line.CommandError, match='--data=data has changed since runs in'):
    comparison.run_all(Comparison(), ['a', 'b', 'c'], args)
  assert ran == [*trained, 'tools.convert_dataset']
