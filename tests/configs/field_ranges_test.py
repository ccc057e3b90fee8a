"""Values of Model Garden's fields with which nothing can be trained are refused, and no others."""
from official.core import task_factory
import pytest

from official_ext import registry_imports
from official_ext.configs import field_ranges
from official_ext.configs import metric_names
from official_ext.ops import checks
from official_ext.utils import command_line
from official_ext.utils import experiment
import small_detectors

RETINANET = 'retinanet_fpn_efficientnetlite0_sample'
RCNN = 'fasterrcnn_fpn_efficientnetlite0_sample'
FCOS = 'fcos_fpn_efficientnetlite0_sample'


@pytest.mark.parametrize('name, field, value, allowed', [
    (RETINANET, 'task.model.num_classes', '0', 'a whole number, at least 2'),
    (RETINANET, 'task.model.num_classes', '1', 'a whole number, at least 2'),
    (RETINANET, 'task.model.num_classes', '3.5', 'a whole number, at least 2'),
    (RCNN, 'task.model.num_classes', 'many', 'a whole number, at least 2'),
    (RCNN, 'task.model.num_classes', 'null', 'a whole number, at least 2'),
    (RETINANET, 'task.model.num_classes', 'true', 'a whole number, at least 2'),
    (RETINANET, 'task.model.min_level', '0', 'at least 1'),
    (RETINANET, 'task.model.max_level', '2', 'the first must not be above the second'),
    (RETINANET, 'task.model.anchor.anchor_size', '0', 'a finite number, above 0'),
    (RETINANET, 'task.model.anchor.aspect_ratios', '[]', 'each of it a finite number, above 0'),
    (RCNN, 'task.model.anchor.aspect_ratios', '[1.0,-1.0]', 'a list, each of it'),
    (RCNN, 'task.model.anchor.num_scales', '0', 'at least 1'),
    (RETINANET, 'task.model.head.num_filters', '0', 'at least 1'),
    (RETINANET, 'task.model.head.num_convs', '-1', 'at least 0'),
    (RETINANET, 'task.model.detection_generator.pre_nms_top_k', '0', 'at least 1'),
    (RETINANET, 'task.model.detection_generator.nms_iou_threshold', '1.5', 'from 0 to 1'),
    (RCNN, 'task.model.detection_generator.pre_nms_score_threshold', '-0.1', 'from 0 to 1'),
    (RCNN, 'task.model.detection_generator.pre_nms_score_threshold', '.nan', 'from 0 to 1'),
    (FCOS, 'task.model.detection_generator.max_num_detections', '0', 'at least 1'),
    (RETINANET, 'task.model.detection_generator.nms_version', 'tflite', "allowed are 'batched'"),
    (RCNN, 'task.model.detection_generator.nms_version', 'v3', "'v2'."),
    (RETINANET, 'task.model.detection_generator.use_class_agnostic_nms', 'true',
     "nms_version is 'batched'"),
    (RCNN, 'task.model.roi_generator.test_num_proposals', '0', 'at least 1'),
    (RCNN, 'task.model.roi_generator.nms_iou_threshold', '2', 'from 0 to 1'),
    (RCNN, 'task.model.roi_sampler.foreground_fraction', '25', 'from 0 to 1'),
    (RCNN, 'task.model.roi_sampler.cascade_iou_thresholds', '[0.6,7]', 'each of it a finite'),
    (RCNN, 'task.model.norm_activation.norm_epsilon', '-1e-3', 'at least 0'),
    (RCNN, 'task.model.detection_head.fc_dims', '0', 'at least 1'),
    (RETINANET, 'task.model.input_size', '[256,256]', 'must be [height, width, 3]'),
    (RETINANET, 'task.model.input_size', '[256,256,1]', 'must be [height, width, 3]'),
    (RETINANET, 'task.model.input_size', '[0,256,3]', 'must be [height, width, 3]'),
    (RETINANET, 'task.model.input_size', '[-256,256,3]', 'must be [height, width, 3]'),
    (RETINANET, 'task.model.norm_activation.activation', 'relux', 'such as relu or swish'),
    (RETINANET, 'task.losses.l2_weight_decay', '-1', 'at least 0'),
    (RETINANET, 'task.losses.focal_loss_alpha', '1.5', 'from 0 to 1'),
    (RETINANET, 'task.train_data.global_batch_size', '0', 'at least 1'),
    (RETINANET, 'task.validation_data.global_batch_size', 'two', 'a whole number, at least 1'),
    (FCOS, 'task.train_data.shuffle_buffer_size', '0', 'at least 1'),
    (RETINANET, 'task.train_data.parser.max_num_instances', '0', 'at least 1'),
    (RCNN, 'task.validation_data.parser.max_num_instances', '-5', 'at least 1'),
    (RETINANET, 'task.train_data.parser.aug_scale_min', '1.5', 'must not be above the second'),
    (RETINANET, 'task.train_data.parser.aug_scale_max', '.inf', 'a finite number, above 0'),
    (RETINANET, 'task.train_data.parser.unmatched_threshold', '0.9', 'not be above the second'),
    (RCNN, 'task.train_data.parser.rpn_match_threshold', '0.1', 'must not be above the second'),
    (RETINANET, 'task.validation_data.is_training', 'true', 'it must be false'),
    (FCOS, 'task.train_data.is_training', 'false', 'it must be true'),
    (RETINANET, 'task.max_num_eval_detections', '0', 'a whole number, at least 1'),
    (FCOS, 'task.train_data.dtype', 'int8', "allowed are 'float32', 'bfloat16', 'float16'"),
    (RCNN, 'task.validation_data.dtype', 'null', "allowed are 'float32'"),
    (RETINANET, 'trainer.train_steps', '-1', 'a whole number, at least 0'),
    (RETINANET, 'trainer.steps_per_loop', '0', 'at least 1'),
    (RETINANET, 'trainer.steps_per_loop', '30', 'a multiple of trainer.steps_per_loop'),
    (RETINANET, 'trainer.validation_steps', '0', '-1 for all'),
    (RETINANET, 'trainer.validation_steps', '-2', 'at least -1'),
    *((RETINANET, f'trainer.optimizer_config.{field}', value, allowed)
      for field, value, allowed in (
          ('optimizer.sgd.global_clipnorm', 'much', 'a finite number'),
          ('optimizer.sgd.clipnorm', '-1', 'at least 0'),
          ('optimizer.sgd.momentum', 'null', 'a finite number'),
          ('optimizer.sgd.momentum', '1.5', 'in [0, 1]'),
          ('optimizer.sgd.nesterov', '1', 'true or false'),
          ('optimizer.type', 'null', 'such as sgd'),
          ('learning_rate.type', 'null', 'such as cosine'),
          ('learning_rate.cosine.initial_learning_rate', 'null', 'must be given'),
          ('learning_rate.cosine.initial_learning_rate', 'high', 'a finite number'),
          ('learning_rate.cosine.decay_steps', '0', 'at least 1'),
          ('warmup.linear.warmup_steps', '-1', 'at least 0'),
          ('ema.average_decay', '1.1', 'in [0, 1]'), ('ema.average_decay', '1', 'must be below'),
          ('ema.start_step', '-1', 'at least 0'),
          ('ema.dynamic_decay', 'false', 'start_step to 2 or more'))),
    (RETINANET, 'trainer.best_checkpoint_export_subdir', 'best', "eval_metric '': the best"),
    (RETINANET, 'trainer.best_checkpoint_eval_metric', 'AP', 'is kept with both alone'),
    (RETINANET, 'trainer.best_checkpoint_metric_comp', 'highest', 'must be higher or lower'),
    (RETINANET, 'task.sampled_evaluation_runs', 'two', 'a whole number, at least 0'),
    ('caddet_crops', 'task.train_data.global_batch_size', '0', 'at least 1')])
def test_a_value_is_refused_by_a_sentence_that_names_the_field(name, field, value, allowed):
  override = value
  for part in reversed(field.split('.')):  # as YAML, which knows .nan and lists
    override = f'{{{part}: {override}}}'
  params = experiment.resolve(name, params_override=override)
  with pytest.raises(command_line.CommandError) as caught:
    experiment.check_training(params)
  text = str(caught.value)
  record, _, last = field.rpartition('.')
  assert (text.startswith(f'{record}.') or text.endswith(f' Change {field}.')) and (
      last in text and allowed in text)


@pytest.mark.parametrize('name, override, said', [
    (RETINANET, 'trainer.best_checkpoint_eval_metric=ap50',
     "'ap50', which evaluation does not give (did you mean AP50?); it gives AP, AP50, "),
    (FCOS, 'trainer.best_checkpoint_eval_metric=mask_AP', 'AP75, APs'),
    (FCOS, 'trainer.best_checkpoint_eval_metric=ARmax100,task.max_num_eval_detections=300',
     'ARmax300'),
    ('atss_fpn_efficientnetlite0_sample', 'trainer.best_checkpoint_eval_metric=AP,'
     'task.use_coco_metrics=false', 'it gives total_loss, cls_loss'),
    (RCNN, 'trainer.best_checkpoint_eval_metric=mask_AP', 'ARl, validation_loss, and costs'),
    (RCNN, 'trainer.best_checkpoint_eval_metric=cls_loss', 'AP, AP50')])
def test_a_metric_that_evaluation_does_not_give_is_refused_at_once(name, override, said):
  params = experiment.resolve(
      name, params_override=f'trainer.best_checkpoint_export_subdir=best,{override}')
  experiment.check_training(params, 'train')
  for mode in ('eval', 'train_and_eval'):
    with pytest.raises(command_line.CommandError, match='best_checkpoint_eval_metric') as caught:
      experiment.check_training(params, mode)
    assert said in str(caught.value)


@pytest.mark.parametrize('name, override, missing', [
    (RCNN, 'task.model.include_mask=true', 'mask_head'),
    (RCNN, '{task: {model: {include_mask: true, mask_head: {num_convs: 2}}}}', 'mask_sampler'),
    ('maskrcnn_fpn_resnet50_coco', 'task.model.mask_roi_aligner=null', 'mask_roi_aligner')])
def test_masks_need_what_finds_them(name, override, missing):
  params = experiment.resolve(name, params_override=override)
  for mode in ('train', 'eval'):
    with pytest.raises(command_line.CommandError, match=f'true, but task.model.{missing} is null'):
      experiment.check_training(params, mode)


@pytest.mark.parametrize('override, said', [
    ('task.model.mask_sampler.num_sampled_masks=65',
     'num_sampled_masks is 65, and roi_sampler.num_sampled_rois 64'),
    ('task.model.include_mask=false,task.model.mask_sampler.num_sampled_masks=65', None),
    ('task.model.roi_generator.num_proposals=53', 'there are 53 proposals'),
    ('task.model.roi_generator.num_proposals=54', None),
    ('task.model.roi_sampler.mix_gt_boxes=false,task.model.roi_generator.num_proposals=63',
     'and 0 objects'),
    # Levels 3 to 5 of 32 pixels have 16, 4 and 1 positions, with 3 anchors each.
    ('task.model.input_size=[32,32,3],task.model.roi_sampler.num_sampled_rois=74',
     'there are 63 proposals'),
    ('task.model.input_size=[32,32,3],task.model.roi_sampler.num_sampled_rois=73', None)])
def test_no_more_boxes_are_sampled_than_there_are(override, said):
  params = experiment.resolve('maskrcnn_fpn_resnet50_coco', params_override=(
      'task.model.roi_sampler.num_sampled_rois=64,task.train_data.parser.max_num_instances=10,'
      'task.model.min_level=3,task.model.max_level=5,task.model.mask_sampler.num_sampled_masks=64,'
      f'{override}'))
  experiment.check_training(params, 'eval')
  if not said:
    experiment.check_training(params)
    return
  with pytest.raises(command_line.CommandError) as caught:
    experiment.check_training(params)
  assert said in str(caught.value)


def test_a_metric_of_masks_is_allowed_where_there_are_masks():
  experiment.check_training(experiment.resolve('maskrcnn_fpn_resnet50_coco', params_override=(
      'trainer.best_checkpoint_export_subdir=best,trainer.best_checkpoint_eval_metric=mask_AP50')))


@pytest.mark.parametrize('name, override', [
    (RETINANET, ''), (RETINANET, 'task.max_num_eval_detections=300'), (FCOS, ''), (RCNN, ''),
    (RCNN, 'task.model.include_mask=true'), (FCOS, 'task.use_coco_metrics=false')])
def test_the_names_of_metrics_are_those_of_the_evaluation(name, override, tmp_path):
  config = experiment.resolve(name, params_override=override, lock=False).task
  annotations = tmp_path / 'annotations.json'
  annotations.write_text('{"images": [], "annotations": [], "categories": []}')
  config.annotation_file = str(annotations)
  task = task_factory.get_task(config, logging_dir=str(tmp_path))
  known = [metric.name for metric in task.build_metrics(training=False)]
  if config.use_coco_metrics:
    known = task.coco_metric._metric_names + known
  assert metric_names.of_detector(config) == [*known, 'validation_loss']


@pytest.mark.parametrize('name', [RETINANET, FCOS, RCNN])
def test_the_evaluation_of_waymo_needs_its_package(name, monkeypatch):
  params = experiment.resolve(name, params_override='task.use_wod_metrics=true')
  experiment.check_training(params, 'train')
  with pytest.raises(command_line.CommandError, match='task.use_wod_metrics is true.*installed'):
    experiment.check_training(params)
  monkeypatch.setattr(metric_names, '_WAYMO', 'numpy')
  experiment.check_training(params)


def test_a_loss_scale_does_not_go_with_averages():
  params = experiment.resolve(FCOS, params_override=(
      'runtime.mixed_precision_dtype=float16,trainer.optimizer_config.ema.average_decay=0.9'))
  with pytest.raises(command_line.CommandError, match='ema is given and runtime.mixed_precision'):
    experiment.check_training(params)
  experiment.check_training(params, 'eval')


@pytest.mark.parametrize('lists, message', [
    ('{values: null}', 'values is null'), ('{boundaries: null}', 'boundaries is null'),
    ('{boundaries: [2], values: [0.1]}', 'values has 1 rates; it must have 2'),
    ('{boundaries: [2], values: [0.1, high]}', "values is [0.1, 'high']"), (None, '')])
def test_rates_of_a_stepwise_schedule_are_given_for_every_step(lists, message):
  lists = lists or '{boundaries: [2, 3], values: [0.1, 0.01, 1]}'
  rate = f'{{type: stepwise, stepwise: {lists}}}'
  params = experiment.resolve(
      RETINANET, params_override=f'{{trainer: {{optimizer_config: {{learning_rate: {rate}}}}}}}')
  if message:
    with pytest.raises(command_line.CommandError) as caught:
      experiment.check_training(params)
    assert message in str(caught.value) and 'learning_rate.stepwise' in str(caught.value)
  else:
    experiment.check_training(params)


@pytest.mark.parametrize('field, value', [
    ('task.model.roi_sampler.cascade_iou_thresholds', '[0.6, 0.7]'),
    ('task.model.roi_sampler.cascade_iou_thresholds', '[]'),
    ('task.model.detection_generator.soft_nms_sigma', '0.5'),
    ('task.model.detection_generator.nms_iou_threshold', '1'),
    ('task.losses.rpn_huber_loss_delta', '0.0'), ('task.losses.l2_weight_decay', '0'),
    ('task.model.norm_activation.norm_epsilon', '0'), ('trainer.validation_steps', '3'),
    ('trainer.validation_interval', '0'), ('trainer.max_to_keep', 'null'),
    ('trainer.best_checkpoint_eval_metric=AP,trainer.best_checkpoint_export_subdir', 'best'),
    ('trainer.summary_interval', 'null'), ('trainer.checkpoint_interval', 'null'),
    ('task.model.detection_head.num_convs', '0'),
    ('trainer.optimizer_config.ema.average_decay', '0'),
    ('trainer.optimizer_config.ema.start_step=2,trainer.optimizer_config.ema.dynamic_decay',
     'false'),
    ('runtime.mixed_precision_dtype=bfloat16,trainer.optimizer_config.ema.average_decay', '0.9'),
    *((f'trainer.best_checkpoint_export_subdir=best,{other}trainer.best_checkpoint_eval_metric',
       metric) for other, metric in (
           ('', 'ARmax100'), ('', 'validation_loss'), ('', 'routing/gmac/executed'),
           ('task.per_category_metrics=true,', 'Precision mAP ByCategory/cat'),
           ('task.use_approx_instance_metrics=true,', 'mAP')))])
def test_the_ends_of_a_range_are_allowed(field, value):
  experiment.check_training(experiment.resolve(RCNN, params_override=f'{field}={value}'))


@pytest.mark.parametrize('field, value, mode', [
    ('trainer.steps_per_loop', '30', 'eval'), ('trainer.validation_steps', '0', 'train'),
    ('task.train_data.global_batch_size', '0', 'continuous_eval'),
    ('task.validation_data.global_batch_size', '0', 'train'),
    ('task.validation_data.shuffle_buffer_size', '0', 'eval')])
def test_fields_that_a_mode_does_not_read_are_free(field, value, mode):
  params = experiment.resolve(RETINANET, params_override=f'{field}={value}')
  experiment.check_training(params, mode)


def test_every_experiment_of_the_package_is_allowed():
  names = [name for name in experiment.names() if type(
      experiment.resolve(name).task).__module__.startswith('official_ext.')]
  assert len(names) > 50
  for name in names:
    experiment.check_training(experiment.resolve(name))


def test_experiments_of_model_garden_may_leave_fields_open():
  assert experiment.resolve('retinanet').task.model.num_classes == 0
  experiment.check_training(experiment.resolve('retinanet'))


@pytest.mark.parametrize('name', [RETINANET, RCNN])
def test_tasks_check_their_model_when_it_is_built(name):
  params = small_detectors.small_experiment(
      name, model={'detection_generator': {'pre_nms_top_k': 0}})
  with pytest.raises(checks.FieldError, match=r'task\.model\.detection_generator\.pre_nms_top_k'):
    task_factory.get_task(params.task).build_model()


@pytest.mark.parametrize('name', [RETINANET, RCNN, FCOS])
@pytest.mark.parametrize('level', [1, 6])
def test_a_level_that_the_backbone_lacks_is_named(name, level):
  """Model Garden's FPN names neither the field nor, of a coarse level, what is wrong."""
  params = small_detectors.small_experiment(
      name, model={'min_level': level, 'max_level': 6, 'decoder': {'fpn': {'num_filters': 8}}})
  with pytest.raises(checks.FieldError, match=rf'task\.model\.min_level is {level}, a level that'):
    task_factory.get_task(params.task).build_model()


def test_ranges_say_what_they_allow():
  ranges = field_ranges._Range
  assert str(ranges(int, 1)) == 'a whole number, at least 1'
  assert str(ranges(float, 0, 1)) == 'a finite number, from 0 to 1'
  assert str(ranges(list[float], 0, is_open=True)) == (
      'a list, each of it a finite number, above 0')
  assert str(ranges(float | None, 0)) == 'a finite number or null, at least 0'


def test_a_whole_number_is_a_learning_rate():
  """TensorFlow computes a schedule in the type of its rate, which cannot be a whole number."""
  params = experiment.resolve(RETINANET, params_override=(
      'trainer.optimizer_config.learning_rate.cosine.initial_learning_rate=1,'
      'trainer.optimizer_config.warmup.linear.warmup_learning_rate=0'))
  experiment.check_training(params)
  rate = task_factory.get_task(params.task).create_optimizer(
      params.trainer.optimizer_config).learning_rate
  assert 0 < float(rate(1)) < 1
