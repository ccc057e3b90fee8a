"""Every YAML file: it says what it is, resolves strictly, and is the row of its paper's table."""
import functools
import json
import re

import numpy as np
from official.core import exp_factory
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.configs import components
from official_ext.dataloaders import image_sizes
from official_ext.losses import budget_checks
from official_ext.utils import experiment
from official_ext.utils import model_cards
import experiment_files
import published_rows
import toolbox_recipe

EVERY = pytest.mark.parametrize('path', experiment_files.ALL, ids=experiment_files.yaml_name)


def paper_of(path):
  """The only paper that a file is of."""
  name = experiment_files.yaml_name(path)
  papers = [key for key, paper in published_rows.PAPERS.items() if re.fullmatch(paper.files, name)]
  assert len(papers) == 1, f'{name} is of {papers}'
  return published_rows.PAPERS[papers[0]]


def expected(path):
  """The values that a file must resolve to."""
  return paper_of(path).expected(path.parent.name, path.stem)


@functools.cache
def resolved(path):
  return experiment_files.resolve(path)


# Cards only read the experiment that files change, and making one takes most of a card's time.
standard = functools.cache(exp_factory.get_exp_config)


@EVERY
def test_file_says_what_it_is(path):
  text = experiment_files.comment(path)
  assert re.match(paper_of(path).comment, text)
  assert 'Published' in text and 'COCO' in text and 'cost' in text
  assert re.search(r'\bAP|no number|not published', text)
  experiment_files.check_command(path)
  if 'resnet101' in path.stem and path.stem.startswith(('dyfpn', 'drfpn', 'inception', 'fpn_r')):
    assert path.parent.name in ('fcos', 'atss') or 'task.init_checkpoint' in text
  if path.stem.startswith('ifpn'):
    for table, detectors in {2: ('autoassign', 'fcos'), 3: ('atss',), 4: ('atss',),
                             5: ('retinanet',)}.items():
      assert f'Table {table}' not in text or path.parent.name in detectors
    if path.parent.name != 'autoassign':
      assert 'AutoAssign' not in text or 'as an FCOS' in text and 'not to be reached' in text


@EVERY
def test_file_has_the_schedule_of_its_paper(path):
  schedule, params = expected(path).schedule, resolved(path)
  trainer = params.trainer
  assert params.task.train_data.global_batch_size == schedule.batch_size
  assert trainer.train_steps == schedule.steps
  sgd = trainer.optimizer_config.optimizer.sgd
  assert (sgd.momentum, sgd.clipnorm, sgd.global_clipnorm) == (
      0.9, None, schedule.global_clipnorm)
  assert params.task.losses.l2_weight_decay == schedule.weight_decay
  rate = optimization.OptimizerFactory(trainer.optimizer_config).build_learning_rate()
  rates = schedule.rates()
  np.testing.assert_allclose(
      [float(rate(tf.constant(step))) for step in rates], list(rates.values()), rtol=1e-5)


def _field(params, path):
  for name in path.split('.'):
    params = getattr(params, name)
  return list(params) if isinstance(params, (list, tuple)) else params


def _tower_parameters(head):
  """Counts the trainable weights of one tower."""
  with experiment_files.zeros():
    tower = components.build_tower(
        head.tower.type, head.tower.get().as_dict(), head.num_filters, 'tower')
    tower.build({level: [None, None, None, head.num_filters] for level in '34567'})
    return sum(v.shape.num_elements() for v in tower.trainable_variables)


def _without_sizes(task):
  fields = {name: value for name, value in task.as_dict().items()
            if name not in ('resize', 'frozen_stages')}
  return {**fields, 'model': {**fields['model'], 'input_size': None}}


@EVERY
def test_file_has_the_sizes_and_the_frozen_stages_of_its_paper(path):
  task = resolved(path).task
  for field, value in published_rows.image_sizes(path.stem).items():
    assert _field(task, field) == value, field
  image_sizes.check(task)


@EVERY
def test_file_is_its_row(path):
  row, task = expected(path), resolved(path).task
  toolbox = toolbox_recipe.numbers(path.parent.name, path.stem)
  for field, value in {**toolbox, **row.fields}.items():
    assert _field(task, field) == value, field
  if row.same_as_experiment:
    name = re.search(r'Experiment: (\w+)\.', experiment_files.comment(path))[1]
    expected_task = experiment.resolve(name, lock=False).task
    if toolbox:
      expected_task.override({'model': {'head_style': 'paper'}})
    for field, value in row.fields.items():
      *records, last = field.split('.')
      (_field(expected_task, '.'.join(records)) if records else expected_task).override(
          {last: value})
    assert _without_sizes(task) == _without_sizes(expected_task)
  if row.parameters is not None:
    assert experiment_files.count_parameters(task.model) == row.parameters
  if row.tower_parameters is not None:
    assert _tower_parameters(task.model.head) == row.tower_parameters
  budget_checks.check(task.budget)


@EVERY
def test_file_has_a_card(path, monkeypatch):
  published, params = model_cards.read_comment(path), resolved(path)
  schedule = expected(path).schedule
  monkeypatch.setattr(exp_factory, 'get_exp_config', standard)
  card = model_cards.make(published.experiment, params, published)
  assert json.loads(json.dumps(card)) == card
  detector = re.sub('[ -]', '', card['network']['detector']).lower()
  # An EfficientDet is a RetinaNet, and some of the Mask R-CNNs are cascades.
  assert detector.endswith(path.parent.name.replace('efficientdet', 'retinanet'))
  recipe = card['recipe']
  assert (recipe['train_steps'], recipe['batch_size']) == (schedule.steps, schedule.batch_size)
  assert card['result']['published'] == published.results and card['result']['measured'] is None
  assert card['data']['train'] == 'coco/train-*.tfrecord' and card['licence']['data']


@pytest.mark.parametrize('name', published_rows.PAPERS)
def test_every_published_row_has_a_file_and_every_file_a_row(name):
  paper = published_rows.PAPERS[name]
  rows = {path: experiment_files.comment(path).split('Published')[0] for path in
          experiment_files.ALL if re.fullmatch(paper.files, experiment_files.yaml_name(path))}
  assert rows
  together = ' '.join(rows.values())
  missing = [row for row in paper.rows if row not in together]
  assert not missing
  if paper.rows:
    strangers = [path for path, text in rows.items() if not any(row in text for row in paper.rows)]
    assert not strangers
  assert not [row for row in paper.without_file if row in together]


def test_baselines_of_the_dense_detectors_are_there():
  assert {experiment_files.yaml_name(path) for path in experiment_files.ALL
          if path.parent.name in ('fcos', 'atss') and path.stem.startswith('fpn_')} == {
              f'{name}/fpn_resnet{depth}_90k' for name in ('fcos', 'atss') for depth in (50, 101)
          }
