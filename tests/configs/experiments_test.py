"""Every registered experiment of a neck is complete, strict, and trains as its paper does."""
import re

import numpy as np
from official.core import task_factory
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.utils import experiment
import experiment_files
import published_rows

ALL_DETECTORS = ('retinanet', 'fasterrcnn', 'maskrcnn', 'cascadercnn')
# Decoder -> the detectors that have it on COCO, and the schedule of its paper.
DECODERS = {
    'fpn': (ALL_DETECTORS, published_rows.epochs(12, 8, 0.01)),
    'inception_fpn': (ALL_DETECTORS, published_rows.epochs(12, 8, 0.01)),
    'dyfpn': (ALL_DETECTORS, published_rows.epochs(12, 8, 0.01)),
    'drfpn': (ALL_DETECTORS, published_rows.epochs(12, 24, 0.03)),
    'ifpn': (ALL_DETECTORS[:2], published_rows.STEPS_90K),
    **dict.fromkeys(['pafpn', 'bifpn', 'carafe', 'deformable_fpn'],
                    (ALL_DETECTORS, published_rows.epochs(12, 8, 0.01))),
}
COCO = [f'{detector}_{decoder}_resnet50_coco'
        for decoder, (detectors, _) in DECODERS.items() for detector in detectors]
SAMPLE = [f'{detector}_{decoder}_efficientnetlite0_sample'
          for decoder in DECODERS for detector in ALL_DETECTORS[:2]]


def decoder_of(name):
  return re.search(r'_((inception_|deformable_)?fpn|dyfpn|drfpn|ifpn|pafpn|bifpn|carafe)_', name)[1]


def test_all_experiments_are_registered():
  assert set(COCO + SAMPLE) <= set(experiment.names())


@pytest.mark.parametrize('name', COCO + SAMPLE)
def test_experiment_resolves_and_builds_its_decoder(name):
  model = experiment.resolve(name).task.model
  assert model.decoder.type == decoder_of(name)
  if decoder_of(name) == 'drfpn':
    assert (model.decoder.get().norm == 'none') == ('coco' in name)
  count = experiment_files.count_parameters(model)
  assert count > 0
  if decoder_of(name) == 'ifpn' and name in COCO:
    basis = published_rows.IFPN_BASIS[name.partition('_')[0]]
    assert count == basis + published_rows.IFPN_MAPS['']


@pytest.mark.parametrize('name', COCO)
def test_coco_experiment_has_the_papers_schedule(name):
  schedule, params = DECODERS[decoder_of(name)][1], experiment.resolve(name)
  assert params.trainer.train_steps == schedule.steps
  assert params.task.train_data.global_batch_size == schedule.batch_size
  assert params.task.losses.l2_weight_decay == 1e-4
  sgd = params.trainer.optimizer_config.optimizer.sgd
  assert (sgd.momentum, sgd.clipnorm, sgd.global_clipnorm) == (0.9, None, None)
  rate = optimization.OptimizerFactory(params.trainer.optimizer_config).build_learning_rate()
  rates = schedule.rates()
  np.testing.assert_allclose(
      [float(rate(tf.constant(step))) for step in rates], list(rates.values()), rtol=1e-5)


@pytest.mark.parametrize(
    'path', [path for path in experiment_files.ALL if '_random_' in path.name],
    ids=experiment_files.yaml_name)
def test_random_signal_is_drawn_afresh_for_each_of_ten_runs(path):
  task = experiment_files.resolve(path).task
  assert task.sampled_evaluation_runs == 10
  options = task.model.decoder.get()
  paths = 7 if options.block == 'A' else 2
  features = {level: tf.random.stateless_normal([64, 1, 1, 8], [1, 2]) for level in '2345'}
  decoder = dyfpn.DyFPN(input_specs={level: x.shape for level, x in features.items()},
                        min_level=2, max_level=6, name='decoder', **options.as_dict())

  @tf.function
  def validation_step():
    draws = []
    for sample_gates in [False] + [True] * 10:
      with routing.RoutingTape(sample_gates=sample_gates):
        draws.append(decoder._selection(decoder.gate(features), training=False).gate)
    return tf.stack(draws)

  draws = np.concatenate([validation_step(), validation_step()])
  assert len({draw.tobytes() for draw in draws}) == 22
  # 22 * 64 * 4 draws: three standard deviations of a share of 1/2 are 0.02.
  np.testing.assert_allclose(draws.mean(axis=(0, 1, 2)), 1 / paths, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    'retinanet_dyfpn_resnet50_coco', 'maskrcnn_dyfpn_resnet50_coco',
    'cascadercnn_dyfpn_resnet50_coco'])
def test_model_builds(name):
  params = experiment.resolve(name, params_override=(
      'task: {model: {input_size: [128, 128, 3], backbone: {resnet: {model_id: 18}}, '
      'decoder: {dyfpn: {num_filters: 8}}}}'))
  model = task_factory.get_task(params.task).build_model()
  assert [layer.name for layer in routed.routed_layers(model)] == ['dyfpn']
  assert len(getattr(model, 'detection_head', [])) == {'cascade': 3}.get(name[:7], 1) or (
      name.startswith('retinanet'))
  assert bool(getattr(model, 'mask_head', None)) == name.startswith('maskrcnn')
