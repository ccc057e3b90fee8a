"""Model cards say what YAML files and folders of trainings say, and nothing of the machine."""
import json

import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.datasets.records import record_folder
from official_ext.utils import experiment
from official_ext.utils import model_cards
import experiment_files

SAMPLE = 'retinanet_dyfpn_efficientnetlite0_sample'
CADDET = experiment_files.CHECKOUT / 'configs' / 'fcos' / 'caddet_1x.yaml'


@pytest.mark.parametrize('path', experiment_files.ALL, ids=experiment_files.yaml_name)
def test_every_yaml_has_a_source_results_and_notes(path):
  published = model_cards.read_comment(path)
  text = experiment_files.comment(path).replace(' \\', '')
  assert 'arxiv.org' in published.source and 'Published' not in published.source
  assert published.experiment in experiment.names()
  assert all(result.startswith('Published') for result in published.results)
  # Nothing is lost but the command.
  assert text.startswith(' '.join([published.source, *published.results, 'Experiment:']))
  assert text.endswith(published.notes) and 'Command:' not in published.notes


def test_the_card_of_a_yaml():
  name = 'fcos_caddet_coco'
  card = model_cards.make(name, experiment.resolve(name, [str(CADDET)]),
                          model_cards.read_comment(CADDET))
  assert json.loads(json.dumps(card)) == card
  assert card['network'] == {
      'detector': 'FCOS', 'decoder': 'caddet_projection', 'backbone': 'caddet'}
  assert card['data']['train'] == 'coco/train-*.tfrecord'
  assert 'CC BY 4.0' in card['data']['licence'] and card['licence']['data'].endswith('Flickr')
  assert card['licence']['software'] == 'Apache-2.0' and card['licence']['start'] is None
  recipe = card['recipe']
  assert (recipe['train_steps'], recipe['batch_size'], recipe['precision']) == (
      88704, 16, 'bfloat16')
  assert recipe['learning_rate']['values'] == [0.01, 0.001, 0.0001]
  assert recipe['resize']['short_side'] == 800 and recipe['start'] is None
  result = card['result']
  assert result['source'] == 'CADDet (arxiv.org/abs/2012.04265), Table 4, row CADDet, FCOS.'
  assert result['published'] == [
      'Published, COCO val: AP 28.5, test-dev: AP 28.9; cost 6.5 G (6.0 to 7.6) multiply-adds of '
      'backbone and neck at 800x1200.']
  assert result['measured'] is None and 'not measured by us' in result['notes']


def test_published_figures_of_several_tables_stay_apart():
  path = CADDET.parents[1] / 'fasterrcnn' / 'dyfpn_resnet50_1x.yaml'
  assert [result.partition(':')[0] for result in model_cards.read_comment(path).results] == [
      'Published, COCO test-dev', 'Published, COCO val', 'Published cost']


def test_a_file_of_overrides_quotes_nothing(tmp_path):
  path = tmp_path / 'overrides.yaml'
  path.write_text('# Makes an experiment use this data set\ntask: {}\n')
  assert model_cards.read_comment(path) is None


@pytest.fixture
def records(tmp_path):
  """A folder as convert_dataset writes it, without records."""
  folder = tmp_path / 'records'
  (folder / 'annotations').mkdir(parents=True)
  split = record_folder.SplitRecords(3, 5, 'train-*.tfrecord', 1, 'annotations/val.json')
  record_folder.write(
      record_folder.Dataset(3, False, {1: 'cat', 2: 'dog'}, dict(train=split, val=split),
                            licence='CC0 1.0'), folder, folder)
  (folder / 'annotations' / 'val.json').write_text('{}')
  return folder


def test_the_card_of_a_training(records, tmp_path):
  params = experiment.resolve(SAMPLE, [str(records / 'overrides.yaml')])
  model_dir = tmp_path / 'model'
  model_cards.keep_dataset(params.task, model_dir)
  (records / 'dataset.json').unlink()  # the records may be gone when a model is exported
  assert model_cards.of_training(SAMPLE, params, model_dir)['result']['measured'] is None
  model_cards.keep_result(model_dir, 20, {'AP': 0.125})
  model_cards.keep_result(model_dir, 40, {'AP': 0.25, 'AP50': 0.5})
  card = model_cards.of_training(SAMPLE, params, model_dir)
  assert card['data'] == {
      'classes': ['cat', 'dog'], 'licence': 'CC0 1.0', 'train': {'num_images': 3, 'num_boxes': 5},
      'val': {'num_images': 3, 'num_boxes': 5}}
  assert card['result']['measured'] == {'step': 40, 'AP': 0.25, 'AP50': 0.5}
  assert card['licence'] == {'software': 'Apache-2.0', 'data': 'CC0 1.0', 'start': 'Apache-2.0'}
  assert card['recipe']['start'] == 'efficientnet_lite0_imagenet'
  assert card['recipe']['optimizer']['type'] == 'sgd' and not card['recipe']['resize']
  assert str(tmp_path) not in json.dumps(card)
  # The best checkpoint has a folder of its own; a checkpoint may be given by its name.
  (model_dir / 'best_ckpt').mkdir()
  for path in (model_dir / 'best_ckpt', model_dir / 'ckpt-40', model_dir / 'best_ckpt' / 'ckpt-40'):
    assert model_cards.of_training(SAMPLE, params, path) == card


def write_checkpoint(folder, step):
  """A checkpoint that says its step as the trainer's do."""
  checkpoint = tf.train.Checkpoint(global_step=tf.Variable(step, dtype=tf.int64))
  return tf.train.CheckpointManager(checkpoint, str(folder), None).save(step)


def test_a_result_of_another_step_is_not_that_of_the_checkpoint(tmp_path):
  params = experiment.resolve(SAMPLE)
  early = write_checkpoint(tmp_path, 20)
  best = write_checkpoint(tmp_path / 'best_ckpt', 20)
  write_checkpoint(tmp_path, 40)
  model_cards.keep_result(tmp_path, 40, {'AP': 0.25})
  for path, has_result in ((tmp_path, True), (early, False), (f'{early}.index', False),
                           (best, False), (tmp_path / 'best_ckpt', False)):
    card = model_cards.of_training(SAMPLE, params, path)
    assert bool(card['result']['measured']) == has_result, path


def test_a_result_of_averaged_weights_is_that_of_their_folders(tmp_path):
  override = ('trainer.optimizer_config.ema={average_decay: 0.9},'
              'trainer.best_checkpoint_export_subdir=best')
  params = experiment.resolve(SAMPLE, params_override=override)
  model_cards.keep_result(tmp_path, 40, {'AP': 0.25})
  for folder, has_result in (('', False), ('ema_checkpoints', True), ('best', True)):
    path = write_checkpoint(tmp_path / folder, 40)
    card = model_cards.of_training(SAMPLE, params, path)
    assert bool(card['result']['measured']) == has_result, folder
    assert model_cards.has_no_averages(params, path) == (not has_result)
    assert not model_cards.has_no_averages(experiment.resolve(SAMPLE), path)


def test_a_training_on_records_of_another_tool(tmp_path):
  override = (f'task.train_data.input_path={tmp_path}/train.record,task.annotation_file=null,'
              f'task.init_checkpoint={tmp_path}/ckpt-7')
  params = experiment.resolve(SAMPLE, params_override=override)
  model_cards.keep_dataset(params.task, tmp_path / 'model')
  assert not (tmp_path / 'model').exists()
  (tmp_path / 'dataset.json').write_text('{')  # damaged
  card = model_cards.of_training(SAMPLE, params, tmp_path)
  assert card['data']['train'] == 'train.record' and card['recipe']['start'] == 'ckpt-7'
  assert card['licence'] == {'software': 'Apache-2.0', 'data': None, 'start': None}


def test_other_data_do_not_have_the_licence_of_coco():
  name = 'fcos_caddet_coco'
  params = experiment.resolve(name, params_override='task.train_data.input_path=mine.record')
  assert model_cards.make(name, params)['licence']['data'] is None
