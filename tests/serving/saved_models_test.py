"""A damaged description of an export ends in one sentence that names the folder and the field."""
import json

import pytest
import tensorflow as tf

from official_ext.serving import converted_detectors
from official_ext.serving import saved_models
from official_ext.utils import command_line

RULE = {'score_threshold': 0.05, 'iou_threshold': 0.5, 'max_detections': 100, 'per_level': None,
        'best': 'boxes', 'levels': [64, 16]}
GOOD = {'experiment': 'x', 'input_type': 'image_tensor', 'input_image_size': [64, 96],
        'batch_size': None, 'num_classes': 11, 'normalized_boxes': False, 'suppression': RULE,
        'gmac': {'static': 1.0, 'minimum': 1.5, 'maximum': 2}, 'max_abs_diff': 0.0,
        'categories': [{'id': 1, 'name': 'a'}], 'budgets': {'points': [{'budget': 1.0}]}}


def test_a_folder_of_versions_is_no_export_and_the_newest_is_named(tmp_path):
  for version in ('1', '12'):
    (tmp_path / version).mkdir()
    (tmp_path / version / 'saved_model.pb').touch()
  with pytest.raises(command_line.CommandError, match='export_saved_model wrote, such as 12 in it'):
    saved_models.load(tmp_path)
  with pytest.raises(command_line.CommandError, match=r'export_saved_model wrote\.$'):
    saved_models.load(tmp_path / 'nothing')


def test_a_description_comes_as_it_is(tmp_path):
  assert saved_models.read_description(tmp_path) == {}
  (tmp_path / 'export.json').write_text(json.dumps(GOOD))
  assert saved_models.read_description(tmp_path) == GOOD
  (tmp_path / 'export.json').write_text(json.dumps({**GOOD, 'batch_size': 4}))
  assert saved_models.read_description(tmp_path)['batch_size'] == 4


@pytest.mark.parametrize('text, said', [
    ('{"num_classes": 3', 'Expecting'), ('[1]', 'list'), ('null', 'NoneType'), ('\udcff', 'utf-8')])
def test_what_holds_no_fields_is_refused(tmp_path, text, said):
  (tmp_path / 'export.json').write_bytes(text.encode('utf-8', 'surrogateescape'))
  with pytest.raises(command_line.CommandError, match=f'--saved_model=.*damaged .*{said}'):
    saved_models.read_description(tmp_path)


@pytest.mark.parametrize('field, value', [
    ('input_type', 'pictures'), ('input_type', ['image_tensor']), ('input_image_size', 64),
    ('input_image_size', [64]), ('input_image_size', [64, 0]), ('input_image_size', ['a', 'b']),
    ('batch_size', 0), ('batch_size', '1'), ('batch_size', True), ('num_classes', 'ten'),
    ('num_classes', None), ('normalized_boxes', 'no'), ('suppression', 5), ('suppression', {}),
    ('suppression', {**RULE, 'levels': None}), ('suppression', {**RULE, 'best': 'all'}),
    ('suppression', {**RULE, 'max_detections': 0.5}), ('gmac', 3), ('gmac', {'static': '1'}),
    ('categories', 'a'), ('max_abs_diff', None), ('budgets', []), ('budgets', {'points': [1]})])
def test_a_field_of_another_kind_is_named(tmp_path, field, value):
  (tmp_path / 'export.json').write_text(json.dumps({**GOOD, field: value}))
  with pytest.raises(command_line.CommandError, match=rf'damaged \({field} is .*export it again'):
    saved_models.read_description(tmp_path)


@pytest.mark.parametrize('categories', [[3], [{'id': 1}], [{'id': 'a', 'name': 'b'}]])
def test_damaged_classes_of_a_conversion_are_named(tmp_path, categories):
  (tmp_path / 'export.json').write_text(json.dumps({**GOOD, 'categories': categories}))
  (tmp_path / 'model.onnx').touch()
  with pytest.raises(command_line.CommandError, match='damaged class names'):
    converted_detectors.load(tmp_path)


@pytest.mark.parametrize('before', [False, True])
def test_graph_optimizers_are_off_inside_and_as_they_were_afterwards(before):
  def are_off():
    return tf.config.optimizer.get_experimental_options().get('disable_meta_optimizer', False)

  kept = are_off()
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': before})
  try:
    with pytest.raises(ValueError, match='inside'), saved_models.unoptimized():
      assert are_off()
      raise ValueError('inside')
    assert are_off() == before
  finally:
    tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': kept})
