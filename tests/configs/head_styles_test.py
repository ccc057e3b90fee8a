"""`task.model.head_style` sets what its style is, in Python, in files and on the command line."""
import pytest

from official_ext import registry_imports
from official_ext.configs import detectors
from official_ext.utils import command_line
from official_ext.utils import experiment
import toolbox_recipe

PAPER = {'task': {'model': {'head_style': 'paper'}}}


def value(config, path):
  for name in path.split('.'):
    config = getattr(config, name)
  return config


def resolve(name, *overrides):
  config = experiment.resolve(name, lock=False)
  for override in overrides:
    config.override(override)
  return config.task


@pytest.mark.parametrize('detector', toolbox_recipe.TOOLBOX)
def test_a_style_sets_its_numbers_and_takes_them_back(detector):
  name = f'{detector}_fpn_resnet50_coco'
  before, task = resolve(name), resolve(name, PAPER)
  assert before.model.head_style == 'garden'
  numbers = toolbox_recipe.TOOLBOX[detector]
  assert {path: value(task, path) for path in numbers} == numbers
  changed = {path for path, number in numbers.items() if value(before, path) != number}
  assert len(changed) > 1
  # A style that is the same already changes nothing; what a training wrote reads as it was.
  task.override({'losses': {'box_loss_weight': 7} if detector == 'retinanet' else
                 {'rpn_box_weight': 7}})
  task.override(PAPER['task'])
  assert task.as_dict() == resolve(name, {'task': task.as_dict()}).as_dict()
  assert 7 in task.losses.as_dict().values()
  task.override({'model': {'head_style': 'garden'}})
  stock = type(task)()
  assert {path: value(task, path) for path in changed} == {
      path: value(stock, path) for path in changed}


def test_fields_of_the_same_override_win():
  task = resolve('retinanet_fpn_resnet50_coco', {'task': {
      'model': {'head_style': 'paper'}, 'losses': {'huber_loss_delta': 0.1}}})
  assert (task.losses.huber_loss_delta, task.losses.focal_loss_gamma) == (0.1, 2.0)


def test_another_tower_stays():
  task = resolve('retinanet_dynamichead_resnet50_coco', PAPER)
  assert task.model.head.tower.type == 'dynamic' and task.losses.focal_loss_gamma == 2.0


def test_unknown_style():
  with pytest.raises(command_line.CommandError,
                     match="task.model.head_style is 'papers'; allowed are 'garden', 'paper'"):
    experiment.resolve('retinanet_fpn_resnet50_coco',
                       params_override='task.model.head_style=papers')
  with pytest.raises(ValueError, match='task.model.head_style'):
    detectors.RetinaNetTaskConfig({'model': {'head_style': 'papers'}})
