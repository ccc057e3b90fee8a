"""Budgets in tasks: errors that name the field, and losses in a training step."""
import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext.losses import budgets
from official_ext.losses import drawn_budget
from official_ext.modeling import network_cost
from official_ext.ops import routing
from official_ext.tasks import step_tape
import small_detectors

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'


@pytest.mark.parametrize('budget, field', [
    ({'kind': 'dynamic'}, 'kind'), ({'ratio': 1.5}, 'ratio'), ({'start_step': -1}, 'start_step'),
    ({'scale_bounds': [64.0, 64.0]}, 'scale_bounds'), ({'target': 1.5}, 'target'),
    ({'path_similarity': {'minimum': 0.9, 'maximum': 0.8}}, 'path_similarity.minimum'),
    ({'part': 'neck'}, 'part'), ({'draw_range': [0.5, 0.2]}, 'draw_range'),
    ({'draw_range': [0.5]}, 'draw_range'), ({'full_every': -1}, 'full_every'),
    ({'shrink_steps': -1}, 'shrink_steps'),
    ({'reduction': 'median'}, 'reduction'), ({'distance': 'cubed'}, 'distance')])
def test_options_out_of_range_name_the_field(budget, field):
  config = small_detectors.small_experiment(DYFPN, budget=budget).task
  with pytest.raises(ValueError, match=f'Change task.budget.{field}.$'):
    task_factory.get_task(config)


@pytest.mark.parametrize('name, budget, fields', [
    (DYFPN, {'weight': 1.0, 'kind': 'fixed'}, 'task.budget.kind or task.model.backbone.type'),
    ('retinanet_fpn_efficientnetlite0_sample', {'path_similarity': {'weight': 1.0}},
     'task.budget.path_similarity.weight or task.model')])
def test_a_model_that_does_not_fit_the_budget_names_the_fields(name, budget, fields):
  config = small_detectors.small_experiment(name, budget=budget).task
  with pytest.raises(ValueError, match=f'Change {fields}.$'):
    task_factory.get_task(config).build_model()


@pytest.mark.parametrize('field', ['information', 'path_similarity'])
def test_a_loss_on_decisions_refuses_gates_that_are_drawn_at_random(field):
  config = small_detectors.small_experiment(
      DYFPN, budget={'weight': 0.0, field: {'weight': 0.5}},
      model={'decoder': {'dyfpn': {'gate': {'type': 'random'}}}}).task
  with pytest.raises(ValueError, match=rf"^{field}\.weight is 0\.5, but gate\.type of dyfpn is "
                     rf"'random'.*Change task\.budget\.{field}\.weight or task\.model\.$"):
    task_factory.get_task(config).build_model()


@pytest.mark.parametrize('budget, takes, message', [
    ({'weight': 1.0, 'kind': 'drawn'}, False, 'gates of dyfpn take no budget.*task.budget.kind'),
    ({'weight': 1.0}, True, 'dyfpn has budget_input.*Change task.budget.kind'),
    ({'weight': 1.0, 'kind': 'drawn', 'part': 'head'}, True, 'no budget of the decoder')])
def test_a_drawn_budget_and_budget_input_need_each_other(budget, takes, message):
  config = small_detectors.small_experiment(
      DYFPN, budget=budget, model={'decoder': {'dyfpn': {'gate': {'budget_input': takes}}}}).task
  if budget.get('part') == 'head':
    config.budget.weight = 0.0
  with pytest.raises(ValueError, match=message):
    task_factory.get_task(config).build_model()


@pytest.mark.slow
def test_budgets_of_neck_and_head_are_logged_by_their_names(sample_records):
  task, model = small_detectors.small_task(
      'fcos_dynamichead_efficientnetlite0_sample', budget={'weight': 0.0},
      budgets=[{'part': 'decoder', 'weight': 1.0, 'target': 0.25},
               {'part': 'head', 'weight': 0.4, 'target': 0.0, 'distance': 'absolute'}],
      annotation_file=f'{sample_records}/annotations/val.json',
      # So large a bias opens the gates of DyFPN whatever is drawn: the head gets the same features.
      model={'max_level': 4, 'decoder': {'type': 'dyfpn', 'dyfpn': {
          'num_filters': 8, 'gate': {'initial_bias': [0.0, 50.0]}}},
             'head': {'num_filters': 8, 'tower': {'dynamic': {'num_blocks': 1}}}})
  metrics = task.build_metrics(training=True)
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.0), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  shares = values['routing/share/decoder/expected'], values['routing/share/head/expected']
  with routing.RoutingTape() as tape:
    model(inputs[0], training=True)
  head = routing.merge({name: record for name, record in tape.records().items()
                        if name != 'dyfpn'})
  share = np.mean((head.expected - head.minimum) / (head.maximum - head.minimum))
  np.testing.assert_allclose(shares[1], share, rtol=1e-4)
  np.testing.assert_allclose(values['routing/loss/budget/head'], 0.4 * share, rtol=1e-4)
  losses = [values[f'routing/loss/budget/{part}'] for part in ('decoder', 'head')]
  assert losses[0] >= (shares[0] - 0.25)**2 * 0.999
  np.testing.assert_allclose(values['total_loss'], values['model_loss'] + sum(losses), rtol=1e-5)
  assert 'routing/gmac/target' not in values

  task.build_metrics(training=False)
  validation = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False)
  logs = task.validation_step(validation, model)
  logs = task.reduce_aggregated_logs(task.aggregate_logs(
      None, tf.nest.map_structure(lambda value: (value,), logs)))
  for part, target in (('decoder', 0.25), ('head', 0.0)):
    np.testing.assert_allclose(logs[f'routing/share/{part}/target'], target, rtol=1e-6)
    assert 0 <= logs[f'routing/share/{part}/executed'] <= 1
    assert logs[f'routing/loss/budget/{part}'] > 0
  cost = network_cost.whole_network_cost(model, (64, 64))
  np.testing.assert_allclose(logs['routing/gmac/network/mean'] - logs['routing/gmac/executed/mean'],
                             cost.static / 1e9, rtol=1e-4)


@pytest.mark.slow
def test_a_drawn_budget_reaches_the_gates_and_the_loss(sample_records):
  task, model = small_detectors.small_task(
      DYFPN, budget={'weight': 2.0, 'kind': 'drawn', 'distance': 'absolute', 'full_every': 3,
                     'reduction': 'mean_share', 'part': 'decoder'},
      annotation_file=f'{sample_records}/annotations/val.json',
      model={'decoder': {'dyfpn': {'num_filters': 8, 'gate': {'budget_input': True}}}})
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  step = small_detectors.traced_step(task, model, optimizer, metrics := task.build_metrics())
  budgets_seen = []
  for _ in range(4):
    for metric in metrics:
      metric.reset_state()
    number = optimizer.iterations.read_value()
    step(inputs)
    values = {metric.name: float(metric.result()) for metric in metrics}
    target = values['routing/share/decoder/target']
    np.testing.assert_allclose(target, drawn_budget.draw(number, [0.1, 0.8], 3, 0), rtol=1e-6)
    share = values['routing/share/decoder/expected']
    np.testing.assert_allclose(
        values['routing/loss/budget'], 2 * abs(share - target), rtol=1e-4, atol=1e-6)
    assert share == 1 if target == 1 else share < 1
    budgets_seen.append(target)
  assert budgets_seen[0] == budgets_seen[3] == 1 and max(budgets_seen[1:3]) < 1
  # Evaluation runs everything.
  task.build_metrics(training=False)
  validation = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False)
  logs = task.validation_step(validation, model)
  assert logs['routing']['share']['decoder/target'][0] == 1
  np.testing.assert_array_equal(logs['routing']['share']['decoder/executed'], 1)


@pytest.mark.slow
@pytest.mark.parametrize('part', small_detectors.BUDGET_NETWORKS)
def test_every_part_trains_with_a_drawn_budget(part, sample_records):
  name, options = small_detectors.BUDGET_NETWORKS[part]
  task, model = small_detectors.small_task(
      name, budget={'weight': 2.0, 'kind': 'drawn', 'distance': 'absolute', 'full_every': 2,
                    'reduction': 'mean_share', 'part': part, 'start_step': 0}, model=options,
      annotation_file=f'{sample_records}/annotations/val.json')
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord', size=2)
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  optimizer.iterations.assign(1)
  task.train_step(inputs, model, optimizer, metrics := task.build_metrics())
  values = {metric.name: float(metric.result()) for metric in metrics}
  target, expected, executed = (
      values[f'routing/share/{part}/{field}'] for field in ('target', 'expected', 'executed'))
  drawn = drawn_budget.draw(tf.constant(1, tf.int64), [0.1, 0.8], 2, 0)
  np.testing.assert_allclose(target, drawn, rtol=1e-6)
  # Messages between the levels of the head always run.
  np.testing.assert_allclose(expected, executed, atol=0.05)
  np.testing.assert_allclose(
      values['routing/loss/budget'], 2 * abs(expected - target), rtol=1e-4, atol=1e-6)
  assert 0 < executed < 1


@pytest.mark.slow
def test_two_stage_detectors_know_objects_and_the_loss_of_an_image(sample_records):
  task, model = small_detectors.small_task(
      'fasterrcnn_dyfpn_efficientnetlite0_sample',
      budget={'weight': 1.0, 'kind': 'loss_aware', 'ratio': 0.2,
              'path_similarity': {'weight': 1.0}},
      init_checkpoint=None, model={
          'backbone': {'type': 'caddet', 'caddet': {'num_layers': 3, 'channels': [4, 6, 8]}},
          'decoder': {'type': 'fpn', 'fpn': {'num_filters': 8}}, 'min_level': 3, 'max_level': 6})
  images, labels = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord', size=2)
  with step_tape.StepTape(budgets.Step((64, 64), tf.constant(0))) as tape:
    outputs = model(images, image_shape=labels['image_info'][:, 1, :],
                    anchor_boxes=labels['anchor_boxes'], gt_boxes=labels['gt_boxes'],
                    gt_classes=labels['gt_classes'], training=True)
    losses = task.build_losses(outputs, labels)
  own = tape.terms.losses
  assert list(own) == ['budget', 'path_similarity'] and min(own.values()) > 0
  np.testing.assert_allclose(
      losses['total_loss'], losses['model_loss'] + sum(own.values()), rtol=1e-4)
  # The history has the loss of each image as if it were a batch of its own.
  for image, remembered in enumerate(model.loss_history.numpy()[-2:]):
    one = tf.nest.map_structure(lambda x, row=image: x[row:row + 1], (outputs, labels))
    np.testing.assert_allclose(remembered, task.build_losses(*one)['model_loss'], rtol=1e-5)


@pytest.mark.slow
def test_retinanet_trains_with_path_similarity_and_knows_the_loss_of_an_image(sample_records):
  task, model = small_detectors.small_task(
      DYFPN, budget={'weight': 1.0, 'target': 0.25, 'path_similarity': {'weight': 1.0}})
  images, labels = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  metrics = task.build_metrics(training=True)
  task.train_step((images, labels), model, tf_keras.optimizers.legacy.SGD(0.01), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  losses = [values[f'routing/loss/{name}'] for name in ('budget', 'path_similarity')]
  assert min(losses) > 0
  np.testing.assert_allclose(values['total_loss'], values['model_loss'] + sum(losses), rtol=1e-5)
  outputs = model(images, training=True)
  together = task.image_losses(outputs, labels)
  for i in range(len(images)):
    one = tf.nest.map_structure(lambda x, row=i: x[row:row + 1], (outputs, labels))
    np.testing.assert_allclose(together[i], task.build_losses(*one)[3], rtol=1e-5)
