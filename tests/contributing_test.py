"""CONTRIBUTING.md: its neck is a neck, chosen by the options that the page shows."""
import importlib.util
import pathlib
import re

import yaml

from official_ext import registry_imports
from official_ext.tools import profile
from official_ext.utils import experiment

PAGE = (pathlib.Path(__file__).resolve().parents[1] / 'CONTRIBUTING.md').read_text(encoding='utf-8')


def test_the_neck_in_one_file_runs_as_the_page_says(tmp_path):
  (code,) = re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
  path = tmp_path / 'my_fpn.py'
  path.write_text(code, encoding='utf-8')
  spec = importlib.util.spec_from_file_location('my_fpn', path)
  my_fpn = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(my_fpn)
  (options,) = re.findall(r'`(decoder: {type: my_fpn.*})`', PAGE)
  config = tmp_path / 'my.yaml'
  config.write_text(yaml.safe_dump({'task': {'model': yaml.safe_load(options)}}), encoding='utf-8')
  params = experiment.resolve(
      'retinanet_fpn_efficientnetlite0_sample', [str(config)],
      params_override='task.model.input_size=[64,64,3],task.model.max_level=5', lock=False)
  decoder = profile.build_model(params, None).decoder
  assert isinstance(decoder, my_fpn.MyFPN)
  assert decoder.get_config()['slope'] == 0.5
  assert set(decoder.output_specs) == {'3', '4', '5'}
