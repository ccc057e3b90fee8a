"""A wrong option of a detector ends in one error that names the field before a network is built."""
import pytest

from official.core import task_factory

from official_ext import registry_imports
from official_ext.ops import checks
from official_ext.utils import experiment

NAN = float('nan')


def refuse(name, override, value, allowed, field):
  """Builds the task of an experiment, and checks the error."""
  params = experiment.resolve(f'{name}_efficientnetlite0_sample', lock=False)
  params.override({'task': override})
  with pytest.raises(checks.FieldError) as caught:
    task_factory.get_task(params.task).build_model()
  text = str(caught.value)
  assert f'{field.split(".")[-1]} is {value!r}' in text and allowed in text
  assert text.endswith(f'Change {field}.')


def nested(path, value):
  """Returns `{'a': {'b': value}}` of `a.b`."""
  for name in reversed(path.split('.')):
    value = {name: value}
  return value


@pytest.mark.parametrize('name, field, value, allowed', [
    ('autoassign_fpn', 'box_loss', 'iou', "'giou'"),
    ('freeanchor_fpn', 'box_loss', 'giou', "'smooth_l1'"),
    ('autoassign_fpn', 'box_loss_weight', -1.0, 'at least 0'),
    ('autoassign_fpn', 'box_loss_weight', NAN, 'a finite number'),
    ('freeanchor_fpn', 'box_loss_weight', 'much', 'a finite number'),
    ('autoassign_fpn', 'focal_loss_alpha', 1.5, 'in [0, 1]'),
    ('freeanchor_fpn', 'focal_loss_alpha', -0.5, 'in [0, 1]'),
    ('freeanchor_fpn', 'focal_loss_gamma', -1.0, 'at least 0')])
def test_losses(name, field, value, allowed):
  refuse(name, nested(f'losses.{field}', value), value, allowed, f'task.losses.{field}')


@pytest.mark.parametrize('name, field, value, allowed', [
    ('autoassign_fpn', 'assigner', 'autoasign', "'autoassign'"),
    ('autoassign_fpn', 'location_offset', NAN, 'a finite number'),
    ('autoassign_fpn', 'location_offset', -1.0, 'in [0, 1]'),
    ('autoassign_fpn', 'num_classes', 1, 'at least 2'),
    ('autoassign_fpn', 'min_level', 7, 'in [1, 6]'),
    ('autoassign_fpn', 'center_radius', 3.0, 'it must be 1.5'),
    ('autoassign_fpn', 'head.num_filters', 0, 'positive'),
    ('autoassign_fpn', 'head.num_filters', 7.5, 'a whole number'),
    ('autoassign_fpn', 'head.use_separable_conv', 5, 'true or false'),
    ('freeanchor_fpn', 'anchor.anchor_size', -1.0, 'positive'),
    ('freeanchor_fpn', 'anchor.anchor_size', NAN, 'a finite number'),
    ('freeanchor_fpn', 'anchor.num_scales', 0, 'positive'),
    ('freeanchor_fpn', 'anchor.aspect_ratios', ['a'], 'a list, each of it a finite number'),
    ('freeanchor_fpn', 'anchor.aspect_ratios', [1.0, -1.0], 'a list of positive numbers'),
    ('freeanchor_fpn', 'detection_generator.nms_version', 'v2', "'portable'"),
    ('freeanchor_fpn', 'detection_generator.nms_iou_threshold', 2.0, 'in [0, 1]'),
    ('freeanchor_fpn', 'detection_generator.pre_nms_top_k', 0, 'at least 1'),
    ('freeanchor_fpn', 'detection_generator.max_num_detections', -1, 'at least 1')])
def test_dense_detectors(name, field, value, allowed):
  refuse(name, nested(f'model.{field}', value), value, allowed, f'model.{field}')


@pytest.mark.parametrize('field, value, allowed', [
    ('num_convs', 0, 'at least 1'), ('num_convs', 'two', 'a whole number'),
    ('activation', 'swich', "'swish'"), ('use_sync_bn', 'maybe', 'true or false'),
    ('norm_momentum', -0.5, 'in [0, 1]'), ('norm_momentum', 1.5, 'in [0, 1]'),
    ('norm_momentum', NAN, 'a finite number'), ('norm_epsilon', 0.0, 'positive'),
    ('norm_epsilon', -1.0, 'positive')])
def test_separable_towers(field, value, allowed):
  tower = {'type': 'separable', 'separable': {field: value}}
  refuse('fcos_fpn', nested('model.head.tower', tower), value, allowed,
         f'head.tower.separable.{field}')


@pytest.mark.parametrize('field, value, allowed', [
    ('deformable', 9, 'true or false'), ('num_convs', -1, 'at least 0'),
    ('offset_rate', NAN, 'a finite number'), ('norm', 'layer', "'group_norm', 'none'")])
def test_plain_towers(field, value, allowed):
  refuse('fcos_fpn', nested(f'model.head.tower.plain.{field}', value), value, allowed,
         f'head.tower.plain.{field}')


@pytest.mark.parametrize('field, value, allowed', [
    ('anchor.anchor_size', -4.0, 'positive'), ('anchor.num_scales', 0, 'positive'),
    ('anchor.aspect_ratios', [], 'a list of positive numbers'),
    ('head.num_filters', -1, 'positive'), ('head.use_separable_conv', 2, 'true or false')])
def test_efficientdet(field, value, allowed):
  refuse('efficientdet_bifpn', nested(f'model.{field}', value), value, allowed,
         f'task.model.{field}')
