"""The carried detector finds the nuclei of a carried image, within its budget; its arguments."""
import json
import pathlib

import numpy as np
import pytest

from official_ext import environment
from official_ext.tools import predict

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
IMAGE = '52a4ac5a875be7a6.jpg'


def _overlaps(box, others):
  """IoU of a box with others, `[x, y, width, height]`."""
  corner = np.maximum(box[:2], others[:, :2])
  size = np.maximum(np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:]) - corner, 0)
  common = size.prod(1)
  return common / (box[2] * box[3] + others[:, 2:].prod(1) - common)


@pytest.mark.slow
def test_the_carried_detector_finds_nuclei_and_spends_less_than_all(tmp_path, capsys):
  image = environment.data_path('demo') / 'images' / IMAGE
  predict.main(['--demo', f'--images={image}', f'--output_dir={tmp_path}/out',
                '--score_threshold=0.5'])
  cost, = json.loads((tmp_path / 'out' / 'costs.json').read_text())['images']
  assert 0.55e9 < cost['multiply_adds'] < 0.9e9
  assert list((tmp_path / 'out' / 'gates').glob('*depth.png'))
  truth = json.loads(
      (CHECKOUT / 'data/nuclei/annotations/instances_val.json').read_text())
  number, = (entry['id'] for entry in truth['images'] if entry['file_name'] == IMAGE)
  boxes = np.array([item['bbox'] for item in truth['annotations'] if item['image_id'] == number])
  found = np.array([item['bbox'] for item in json.loads(
      (tmp_path / 'out' / 'predictions.json').read_text()) if item['score'] >= 0.5])
  hits = [np.any(_overlaps(box, found) > 0.5) for box in boxes]
  assert np.mean(hits) > 0.7 and len(found) < 2 * len(boxes)
  assert f'{IMAGE}: objects: {len(found)}, ' in capsys.readouterr().out


def test_arguments_of_the_demo_and_what_is_missing_without_it(capsys):
  args = predict._parse_arguments(['--demo'])
  assert (args.budget, args.output_dir, args.gates) == (0.5, 'runs/demo', True)
  assert [path.name for path in args.images] == ['images']
  assert predict._parse_arguments(['--demo', '--budget=0']).budget == 0
  assert predict._parse_arguments(['--demo', '--gate_threshold=0.5']).budget is None
  for arguments, words in (
      (['--saved_model=x'], 'are required: --images, --output_dir'),
      (['--demo', '--saved_model=x'], '--demo brings a detector along'),
      (['--demo', '--max_ms=10'], '--demo has no table of what budgets cost: give --budget'),
      (['--demo', '--max_gmac=1'], '--demo has no table of what budgets cost: give --budget')):
    with pytest.raises(SystemExit):
      predict._parse_arguments(arguments)
    assert words in capsys.readouterr().err


def test_what_is_carried_is_small_and_says_where_it_comes_from():
  folder = environment.data_path('demo')
  assert sum(path.stat().st_size for path in folder.rglob('*')) < 12e6
  assert 'Apache' in (folder / 'LICENSE').read_text()
  text = (folder / 'SOURCE.md').read_text()
  assert 'scripts/make_demo.py' in text and 'CC0' in text
  for image in (folder / 'images').iterdir():
    assert image.read_bytes() == (CHECKOUT / 'data/nuclei/images' / image.name).read_bytes()
