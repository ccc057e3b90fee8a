"""The quickstart from images to the report, with a few training steps."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quickstart_writes_a_report_of_a_folder_of_images(sample_records, tmp_path):
  data = sample_records.parent / 'coco'
  output = tmp_path / 'run'
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), f'--data={data}',
       f'--output_dir={output}', '--train_steps=3'], cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 0, result.stderr[-2000:]
  report = json.loads((output / 'report.json').read_text())
  assert {'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max', 'gmac_inception_fpn', 'gmac_fpn',
          'saved_model_max_abs_diff', 'seconds_by_step'} <= set(report)
  assert report['gmac_min'] <= report['gmac_mean'] <= report['gmac_max']
  assert report['gmac_fpn'] < report['gmac_inception_fpn']
  assert report['saved_model_max_abs_diff'] < 1e-3
  assert set(report['seconds_by_step']) == {'convert', 'check', 'train', 'export', 'predict'}
  page = (output / 'report.html').read_text()
  assert page.count('<figure>') >= 6 and 'src="data:' in page


def test_quickstart_refuses_a_missing_folder_in_one_sentence(tmp_path):
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), '--data=nowhere'],
      cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 2
  assert result.stderr.strip() == 'error: --data=nowhere: no such folder.'
  assert not any(tmp_path.iterdir())
