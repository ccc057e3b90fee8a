"""What is said of options that have no effect on a training."""
import inspect

from pycocotools import cocoeval
import pytest

from official_ext import registry_imports
from official_ext.configs import without_effect
from official_ext.utils import experiment

NAME = 'retinanet_dyfpn_efficientnetlite0_sample'
RATE = 'trainer.optimizer_config.learning_rate'
COSINE = f'{RATE}.cosine'
POLYNOMIAL = (f'{RATE}.type=polynomial,{RATE}.polynomial.decay_steps=99,'
              f'{RATE}.polynomial.initial_learning_rate=0.1,{RATE}.polynomial.end_learning_rate=0.0')


def found(override, name=NAME):
  return without_effect.find(experiment.resolve(name, params_override=override))


@pytest.mark.parametrize('name', [name for name in experiment.names() if 'coco' in name or
                                  'sample' in name])
def test_no_experiment_has_a_part_without_effect(name):
  assert not found('', name)


@pytest.mark.parametrize('override, words', [
    ('trainer.train_steps=527', f'{COSINE}.decay_steps is 500, so that the learning rate is 0 from '
     'step 500 on, and trainer.train_steps is 527: give both the same number.'),
    (f'trainer.train_steps=527,{COSINE}.offset=27', None),
    (f'trainer.train_steps=527,{COSINE}.alpha=0.1', None),
    (f'trainer.train_steps=527,{COSINE}.decay_steps=527', None),
    ('trainer.train_steps=49', 'warmup.linear.warmup_steps is 50, so that the learning rate is '
     'still rising when training ends: trainer.train_steps is 49.'),
    ('trainer.train_steps=50', None),
    ('trainer.train_steps=526', None),
    (POLYNOMIAL, 'rate is 0 from step 99 on'),
    (POLYNOMIAL.replace('end_learning_rate=0.0', 'end_learning_rate=0.1'), None),
    (f'{POLYNOMIAL},{RATE}.polynomial.cycle=true', None),
    ('trainer.optimizer_config.warmup.type=null,trainer.train_steps=9', None),
    ('task.budget.weight=1,task.budget.start_step=500', 'task.budget.start_step is 500, and '
     'training ends before: trainer.train_steps is 500.'),
    ('task.budget.weight=1,task.budget.start_step=499', None),
    ('task.budget.weight=0,task.budget.start_step=500', None),
    ('task.budget.weight=0,task.budget.information.weight=0.1,'
     'task.budget.information.start_step=600', 'task.budget.information.start_step is 600, and'),
    ('task.budget.weight=0,task.budget.information.weight=0.1,task.budget.start_step=600',
     'task.budget.information.start_step is 600, and'),
    ('task.budget.kind=drawn,task.budget.shrink_steps=501', 'task.budget.shrink_steps is 501, '
     'until which budgets are nearer to 1 than draw_range says, and training ends before'),
    ('task.budget.kind=drawn,task.budget.shrink_steps=500', None),
    ('task.budget.weight=1,task.budget.draw_range=[0.1,0.9]', 'task.budget.draw_range is [0.1, '
     "0.9], which the kind 'share' does not read: it is for drawn."),
    ('task.budget.weight=1,task.budget.full_every=3', "full_every is 3, which the kind 'share'"),
    ('task.budget.weight=1,task.budget.shrink_steps=3', 'shrink_steps is 3, which the kind'),
    ('task.budget.weight=0,task.budget.shrink_steps=3', None),
    ('task.budget.kind=fixed,task.budget.target=0.3', "task.budget.target is 0.3, which the kind "
     "'fixed' does not read: it is for share, drawn."),
    ('task.budget.kind=drawn,task.budget.target=0.3', None),
    ('{task: {budget: {weight: 0}, budgets: [{part: decoder, weight: 0.2, start_step: 900}]}}',
     'task.budgets[0].start_step is 900, and')])
def test_what_has_no_effect_is_named(override, words):
  sentences = found(override)
  assert len(sentences) == bool(words)
  assert not words or words in sentences[0]


@pytest.mark.parametrize('mode, is_said', [
    ('train', False), ('eval', True), ('train_and_eval', True)])
def test_results_of_single_classes_are_not_promised(mode, is_said):
  for name in (NAME, 'fcos_fpn_efficientnetlite0_sample', 'maskrcnn_fpn_resnet50_coco'):
    params = experiment.resolve(name, params_override='task.per_category_metrics=true')
    sentences = without_effect.find(params, mode)
    assert len(sentences) == is_said and all('per_category_metrics is true' in sentence
                                             for sentence in sentences)
  params = experiment.resolve('maskrcnn_fpn_resnet50_coco', params_override=(
      'task.per_category_metrics=true,task.use_approx_instance_metrics=true'))
  assert not without_effect.find(params, mode)


def test_pycocotools_has_no_results_of_single_classes():
  assert 'category_stats' not in inspect.getsource(cocoeval)
