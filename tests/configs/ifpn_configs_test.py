"""The implicit pyramid's experiments and YAML: every row, the paper's schedule, exact counts."""
import re

import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext.utils import experiment
import experiment_files
from experiment_files import comment
from experiment_files import count_parameters
from experiment_files import resolve
from experiment_files import yaml_name

YAMLS = [path for path in experiment_files.ALL if comment(path).startswith('i-FPN')]
EXPERIMENTS = [f'{detector}_ifpn_{setting}' for detector in ('retinanet', 'fasterrcnn')
               for setting in ('resnet50_coco', 'efficientnetlite0_sample')]

# One-stage: 1x1 convolutions of C3 to C5, and 3x3 convolutions for two coarser levels;
# two-stage: 1x1 convolutions of C2 to C5, and a pooled coarser level.
ONE_STAGE = 256 * (512 + 1024 + 2048 + 3) + 2 * 256 * (9 * 256 + 1)
TWO_STAGE = 256 * (256 + 512 + 1024 + 2048 + 4)
MAPS = {
    '': 7_677_440, 'unroll0': 0, 'rbl': 5_903_872 + 10 * 256, 'csc': 3 * 590_336 + 512,
    'bifpn': 6_450_195 + 26 * 256, 'nasfpn': 10_037_504 + 17 * 256,
    **dict.fromkeys(['dense', 'unroll1', 'unroll2', 'unroll4'], 18_692_352 + 45 * 256),
    # 3x3: 10 in five blocks, 20 between levels; 1x1: 10 between levels, 5 at the end;
    # norms: 15, 30 and 5.
    'mdeq': 30 * 589_824 + 15 * 65_536 + 45 * 256 + 50 * 512,
}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_experiment_resolves_and_builds_its_decoder(name):
  params = experiment.resolve(name)
  assert params.task.model.decoder.type == 'ifpn'
  count = count_parameters(params.task.model)
  if name.endswith('_coco'):
    basis = ONE_STAGE if name.startswith('retinanet') else TWO_STAGE
    assert count == basis + MAPS['']
    check_schedule(params)


def check_schedule(params):
  """The paper's schedule: 8 GPUs with 2 images each, 90,000 steps."""
  assert params.task.train_data.global_batch_size == 16
  assert params.trainer.train_steps == 90_000
  assert params.task.losses.l2_weight_decay == 1e-4
  assert params.trainer.optimizer_config.optimizer.sgd.momentum == 0.9
  rate = optimization.OptimizerFactory(params.trainer.optimizer_config).build_learning_rate()
  steps = {0: 1e-5, 500: (1e-5 + 0.01) / 2, 1000: 0.01, 60_000: 0.01, 60_001: 0.001,
           80_000: 0.001, 80_001: 0.0001}
  np.testing.assert_allclose([float(rate(tf.constant(step))) for step in steps],
                             list(steps.values()), rtol=1e-5)


def test_every_published_row_has_a_file():
  rows = ' '.join(comment(path).split('Published')[0] for path in YAMLS)
  for row in ('Table 1, row RetinaNet, baseline', 'Table 1, row RetinaNet, i-FPN',
              'Table 1, row Faster R-CNN, baseline', 'Table 1, row Faster R-CNN, i-FPN',
              'Table 2, row unrolling 0', 'Table 2, row unrolling 1', 'Table 2, row unrolling 2',
              'Table 2, row unrolling 4', 'Table 2, row Broyden', 'Table 3, row none',
              'Table 3, row RBL;', 'Table 3, row CSC', 'Table 3, row RBL and CSC',
              'Table 4, row without connections', 'Table 4, row Bi-FPN', 'Table 4, row NAS-FPN',
              'Table 4, row Dense-FPN', 'Table 4, row Pyramid', 'Table 5, row RLIter',
              'Table 5, row MDEQ'):
    assert row in rows, row


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_says_what_it_is(path):
  text = comment(path)
  assert re.match(r'i-FPN \(arxiv.org/abs/2012.13563\), Table \d, row ', text)
  assert 'Published, COCO' in text and 'cost' in text
  if re.search('AutoAssign|ATSS', text):
    assert 'as a RetinaNet' in text.replace('As', 'as') and 'not to be reached' in text
  experiment_files.check_command(path)


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_builds_the_decoder_of_its_row(path):
  params = resolve(path)
  check_schedule(params)
  variant, depth = re.fullmatch(r'ifpn_?(\w*?)_?resnet(\d+)_90k', path.stem).groups()
  model = params.task.model
  assert model.backbone.resnet.model_id == int(depth)
  assert (params.task.init_checkpoint is None) == (depth == '101')
  if variant == 'baseline':
    assert model.decoder.type == 'inception_fpn'
    return
  is_two_stage = path.parent.name == 'fasterrcnn'
  basis = TWO_STAGE if is_two_stage else ONE_STAGE
  assert count_parameters(model) == basis + MAPS[variant]
  solver = model.decoder.get().solver
  if variant.startswith('unroll'):
    steps = int(variant[-1])
    assert (solver.solver, solver.gradient) == ('unroll', 'unroll')
    assert (solver.training_evaluations, solver.inference_evaluations) == (steps, steps)
  else:
    # T steps are T + 1 evaluations.
    assert (solver.solver, solver.gradient, solver.tolerance) == ('broyden', 'implicit', 0)
    assert (solver.training_evaluations, solver.inference_evaluations) == (16, 8)
    assert solver.backward_evaluations == 15
