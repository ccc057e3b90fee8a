"""Detectors with dynamic towers through all commands that export, run or report them."""
import json
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import yaml

from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.tools import predict
from official_ext.tools import profile
from official_ext.tools import report
from official_ext.tools import tradeoff
import small_detectors

pytestmark = pytest.mark.slow

TOWER = {'type': 'dynamic', 'dynamic': {'num_blocks': 1}}
HEAD = {'num_filters': 16, 'tower': TOWER}
# A small network, because every command traces it several times.
SMALL = {'max_level': 4, 'backbone': {'resnet': {'depth_multiplier': 1.0}},
         'decoder': {'fpn': {'num_filters': 16}}, 'head': HEAD}
NAME = 'fcos_dynamichead_efficientnetlite0_sample'


def small_run(folder):
  """Writes the files of a training: a config, and a checkpoint whose gates are open and shut."""
  config = small_detectors.small_experiment(NAME, model=SMALL)
  _, model = small_detectors.small_task(NAME, model=SMALL)
  for seed, variable in enumerate(model.head.trainable_variables):
    random = tf.random.stateless_normal(variable.shape, [1, seed])
    if 'gate' in variable.name:
      variable.assign(0.1 * random)
    elif 'classes/kernel' in variable.name:
      variable.assign(0.3 * random)
  tf.train.Checkpoint(model=model).save(str(folder / 'ckpt'))
  (folder / 'params.yaml').write_text(yaml.safe_dump(config.as_dict()), encoding='utf-8')
  return config


def command(monkeypatch, module, *arguments):
  monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, arguments)])
  module.main()


def test_every_command_serves_dynamic_towers(sample_records, tmp_path, monkeypatch):
  run, saved = tmp_path / 'run', tmp_path / 'saved'
  small_run(run)
  export_saved_model.main([
      f'--experiment={NAME}', f'--config_file={run}/params.yaml', f'--checkpoint_path={run}',
      f'--export_dir={saved}'])
  images = tmp_path / 'images'
  images.mkdir()
  for path in sorted((sample_records.parent / 'coco' / 'images' / 'val').iterdir())[:3]:
    # TensorFlow and Pillow decode JPEG differently.
    Image.open(path).save(images / path.name, 'PNG')
  annotations = sample_records / 'annotations' / 'val.json'
  predict.main([
      f'--saved_model={saved}', f'--annotation_file={annotations}', f'--images={images}',
      f'--output_dir={tmp_path}/predictions', '--batch_size=2', '--evaluate', '--gates'])
  predict.main([
      f'--saved_model={saved}', f'--images={images}', f'--output_dir={tmp_path}/shut',
      '--gate_threshold=1', '--no-draw'])
  shut = json.loads((tmp_path / 'shut' / 'costs.json').read_text())['images']
  costs = json.loads((tmp_path / 'predictions' / 'costs.json').read_text())['images']
  assert len(costs) == 3
  drawn = sorted(path.name for path in (tmp_path / 'predictions' / 'gates').iterdir())
  assert len(drawn) == 3 * 3 and {name.rsplit('_', 1)[1] for name in drawn} == {
      'coarser.png', 'depth.png', 'finer.png'}

  outputs = detectors.SavedDetector(saved)(np.asarray(Image.open(costs[0]['file']))[None])
  gate = outputs['gate_class_tower_block_0_depth_3']
  assert gate.shape == (1, 8, 8, 1) and 0 < np.mean(gate > 0) < 1
  assert costs[0]['gates']['class_tower_block_0_depth_3'] == pytest.approx(np.mean(gate > 0))

  command(monkeypatch, profile, f'--experiment={NAME}', f'--config_file={run}/params.yaml',
          f'--checkpoint_path={run}', f'--data={images}', '--num_runs=1',
          f'--json={tmp_path}/profile.json')
  figures = json.loads((tmp_path / 'profile.json').read_text())
  gmac = figures['gmac']
  assert gmac['minimum'] < gmac['mean'] < gmac['maximum']
  assert [cost['multiply_adds'] / 1e9 for cost in shut] == pytest.approx(3 * [gmac['minimum']])
  assert gmac['mean'] == pytest.approx(np.mean([cost['multiply_adds'] for cost in costs]) / 1e9)
  positions = 64 + 16
  assert gmac['maximum'] - gmac['minimum'] == pytest.approx(2 * 2 * 9 * 16**2 * positions / 1e9)
  assert sum(figures['gmac_maximum_by_part'].values()) == pytest.approx(gmac['maximum'])

  tradeoff.main([
      f'--experiment={NAME}', f'--model_dir={run}', f'--saved_model={saved}', '--thresholds=1,0',
      f'--images={images}', f'--annotation_file={annotations}',
      f'--output_dir={tmp_path}/tradeoff'])
  first, last, *of_export = json.loads((tmp_path / 'tradeoff' / 'tradeoff.json').read_text())
  for point, same in zip((first, last), of_export, strict=True):
    assert same == {**{name: pytest.approx(value) for name, value in point.items()},
                    'model': 'saved'}
  evaluation = json.loads((tmp_path / 'predictions' / 'evaluation.json').read_text())
  assert (first['threshold'], last['threshold'], first['model']) == (0.0, 1.0, 'run')
  assert first['ap'] == pytest.approx(evaluation['ap'])
  assert first['gmac_mean'] == pytest.approx(gmac['mean'])
  assert first['gmac_min'] == pytest.approx(min(c['multiply_adds'] for c in costs) / 1e9)
  assert last['gmac_max'] == last['gmac_min'] == pytest.approx(gmac['minimum'])
  assert (tmp_path / 'tradeoff' / 'tradeoff.png').is_file()

  command(monkeypatch, report, f'--experiment={NAME}', f'--model_dir={run}',
          f'--images={images}', f'--annotation_file={annotations}',
          f'--predictions={tmp_path}/predictions', f'--saved_model={saved}',
          f'--output_dir={tmp_path}/report', '--network', 'one', saved, tmp_path / 'predictions',
          '--network', 'two', saved, tmp_path / 'predictions')
  results = json.loads((tmp_path / 'report' / 'report.json').read_text())
  gates_alone = 2 * 9 * 16 * 2 * positions / 1e9
  assert (results['gmac_fixed_head'], results['gmac_plain_head'] > gmac['minimum']) == (
      pytest.approx(gmac['maximum'] - gates_alone), True)
  for entry in results['networks']:
    assert (entry['ap'], entry['gmac_mean'], entry['gates']) == (
        pytest.approx(evaluation['ap']), pytest.approx(gmac['mean']), len(costs[0]['gates']))
  page = (tmp_path / 'report' / 'report.html').read_text()
  # Random weights may find an object or not.
  assert page.count(' for this data: ' if evaluation['ap'] else ': AP is 0 for all, so none') == 1
  for path in ('coarser', 'depth', 'finer'):
    assert page.count(f'{path}: gray is shut.</figcaption>') == 3
