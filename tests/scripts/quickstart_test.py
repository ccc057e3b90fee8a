"""The quickstart from images to the report, with a few training steps."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


# Blanks, quotes, and what has a meaning in shells, YAML, URLs, format strings and patterns.
ODD_NAME = 'My "data" [v2], O\'Neil #1: 100%? *{x}* back\\slash \u00fc'

# Every step that builds the detector traces a small one.
SMALL = ('task.init_checkpoint=null,task.train_data.global_batch_size=4,'
         'task.model.input_size=[64,64,3],task.model.max_level=5,task.model.backbone.type=resnet,'
         'task.model.backbone.resnet.model_id=10,'
         'task.model.backbone.resnet.depth_multiplier=0.25')


@pytest.mark.slow
def test_quickstart_writes_a_report_of_zipped_coco_folders_under_an_odd_name(
    sample_records, tmp_path):
  """The folders of a COCO download, whose images are not where the converter's own are."""
  coco, data = sample_records.parent / 'coco', tmp_path / ODD_NAME / 'coco'
  for split in ('train', 'val'):
    shutil.copytree(coco / 'images' / split, data / f'{split}2017')
    (data / 'annotations').mkdir(exist_ok=True)
    shutil.copy(coco / f'annotations/{split}.json',
                data / f'annotations/instances_{split}2017.json')
  archive = shutil.make_archive(str(data), 'zip', data)
  output = tmp_path / ODD_NAME / 'run'
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), f'--data={archive}',
       f'--output_dir={output}', '--train_steps=3', f'--params_override={SMALL}'],
      cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 0, result.stderr[-2000:]
  report = json.loads((output / 'report.json').read_text())
  assert {'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max', 'gmac_inception_fpn', 'gmac_fpn',
          'saved_model_max_abs_diff', 'seconds_by_step'} <= set(report)
  assert report['gmac_min'] <= report['gmac_mean'] <= report['gmac_max']
  assert report['gmac_fpn'] < report['gmac_inception_fpn']
  assert report['saved_model_max_abs_diff'] < 1e-3
  assert set(report['seconds_by_step']) == {
      'convert', 'check', 'images', 'train', 'export', 'predict'}
  page = (output / 'report.html').read_text()
  assert page.count('<figure>') >= 6 and 'src="data:' in page


def test_quickstart_refuses_a_missing_folder_in_one_sentence(tmp_path):
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), '--data=nowhere'],
      cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 2
  assert result.stderr.strip() == 'error: --data=nowhere: no such file or folder.'
  assert not any(tmp_path.iterdir())
