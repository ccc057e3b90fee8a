"""Studies: what they train resolves, what they conclude, and that they go on where they stopped."""
import argparse
import itertools
import json
import math
import shutil
import sys

import evidence
import numpy as np
from official.vision.modeling.decoders import factory
import pytest
from studies import page
from studies import plans
from studies import subjects
import tensorflow as tf
import yaml

from official_ext.utils import command_line
from official_ext.utils import experiment

ARGS = argparse.Namespace(train_steps=7, image_size=(128, 192))
# What EfficientNet-Lite0 gives for images of 128 x 192 pixels.
LITE0 = {level: tf.TensorShape([None, 128 >> int(level), 192 >> int(level), channels])
         for level, channels in (('2', 24), ('3', 40), ('4', 112), ('5', 320))}
DATA = evidence.DataSet('nuclei', 'data/nuclei')


@pytest.mark.parametrize('plan, name', [
    (plan, name) for plan, study in plans.PLANS.items() for name in study.subjects])
def test_every_subject_is_an_experiment_that_resolves(plan, name, tmp_path):
  subject = plans.PLANS[plan].subjects[name]
  options = evidence._options(subject, DATA, ARGS)
  path = tmp_path / 'options.yaml'
  path.write_text(yaml.safe_dump(evidence.nested(options)))
  params = experiment.resolve(subject.experiment, [str(path)])
  assert params.trainer.train_steps == 7
  small = subject.image_scale < 1
  assert params.task.model.input_size == ([128, 128, 3] if small else [128, 192, 3])
  for field, value in options.items():
    found = params.as_dict()
    for part in field.split('.'):
      found = found[part]
    assert found == value
  assert bool(subject.budgets) == (params.task.budget.kind == 'drawn')
  if 'efficientnetlite0' in subject.experiment:  # A wrong choice is an error of the layer.
    factory.build_decoder(LITE0, params.task.model)


def test_claims_name_subjects_and_budgets_of_their_plan():
  for plan in plans.PLANS.values():
    for claim in plan.claims:
      for side in {claim.left, claim.right} - {plans.ANY_PLAIN}:
        name, _, budget = side.partition('@')
        assert not budget or float(budget) in plan.subjects[name].budgets
        assert name in plan.subjects


def runs(*precisions, budget=None):
  return [[{'budget': budget, 'ap': ap, 'ap50': 0.5, 'ap_low': 0.1, 'ap_high': 0.9,
            'gmac_mean': 1.5, 'gmac_min': 1.0, 'gmac_max': 2.0}] for ap in precisions]


@pytest.mark.parametrize('left, right, margin, words', [
    ((0.50, 0.51, 0.52), (0.40, 0.41, 0.42), 0.0, 'yes: +0.100 +- 0.035'),
    ((0.40, 0.41, 0.42), (0.50, 0.51, 0.52), -0.01, 'no: -0.100 +- 0.035'),
    ((0.40, 0.41, 0.42), (0.41, 0.42, 0.43), -0.01, 'not shown: -0.010 +- 0.035'),
    ((0.5,), (0.4,), 0.0, 'not shown: +0.100, one training each'),
    ((0.5, 0.6, 0.7), (0.4,), 0.0, 'not shown: +0.200, 3 and 1 trainings'),
    ((), (0.4,), 0.0, 'not trained')])
def test_answers(left, right, margin, words):
  claim = plans.Claim('', 'a@0.5', 'b', margin)
  assert page.answer(claim, {'a': runs(*left, budget=0.5), 'b': runs(*right)}) == words


def test_a_claim_may_be_about_the_spread_of_costs():
  wide, narrow = runs(0.4), runs(0.5)
  narrow[0][0]['gmac_max'] = 1.25
  claim = plans.Claim('', 'wide', 'narrow', figure='spread')
  assert page.answer(claim, {'wide': wide, 'narrow': narrow}) == (
      'not shown: +0.750, one training each')


def test_the_rival_is_the_best_plain_network_that_costs_no_more():
  results = {'a': runs(0.5, budget=0.5), **{name: runs(ap) for name, ap in (
      ('cheap', 0.3), ('equal', 0.4), ('dear', 0.6), ('routed', 0.45))}}
  for name, cost in (('cheap', 0.5), ('dear', 1.6)):
    results[name][0][0]['gmac_mean'] = cost
  plain = ('cheap', 'equal', 'dear', 'not_trained')
  claim = plans.Claim('', 'a@0.5', plans.ANY_PLAIN)
  assert page.answer(claim, results, plain) == (
      'not shown: +0.100, one training each, beside equal')
  assert page.answer(claim, results, ('dear',)) == 'not trained'
  assert page.answer(claim, {'equal': results['equal']}, plain) == 'not trained'


def test_the_interval_of_a_mean_is_students():
  # Two values at a distance of 2: deviation sqrt(2), so 12.706 * sqrt(2) / sqrt(2).
  assert page.interval([1.0, 3.0]) == pytest.approx(12.706, abs=1e-3)
  # 12 values of mean 0 and deviation 1, and 11 degrees of freedom.
  values = [-1.0, 1.0] * 6
  assert page.interval(values) == pytest.approx(2.201 / math.sqrt(11), abs=1e-3)
  assert np.isinf(page.interval([1.0]))


def test_the_page_has_a_row_for_each_budget_the_answers_and_a_picture(tmp_path):
  study = {'a': subjects.Subject('x', {}, (0.5,)), 'b': subjects.Subject('y', is_plain=True)}
  plan = plans.Plan(study, [plans.Claim('A is better', 'a@0.5', 'b'),
                            plans.Claim('C is better', 'c', 'b'), plans.Claim('', 'c', 'a')])
  results = {'nuclei': {'a': runs(0.5, 0.6, budget=0.5), 'b': runs(0.4)}}
  times = {'nuclei': {name: {budget: {'tensorflow': {'low': 1.0, 'median': 2.0, 'high': 3.0}}}
                      for name, budget in (('a', '0.5'), ('b', 'None'))}}
  page.write(tmp_path, 'study', plan, results, times,
             {'train_steps': 7, 'image_size': (128, 192), 'resamples': 9})
  text = (tmp_path / 'study.md').read_text()
  assert ('| `a` | 0.5 | 2 | 0.550 +- 0.635 | 0.100 to 0.900 | 0.500 | 1.500 (1.000 to 2.000) | '
          '2.0 (1.0 to 3.0) |') in text
  assert '| `b` |  | 1 | 0.400 |' in text
  assert '- A is better: not shown: +0.150, 2 and 1 trainings' in text
  assert '- Claims about networks that are not trained here: 2\n' in text
  assert 'C is better' not in text
  assert 'Most accurate: `a` at budget 0.5, AP 0.550.' in text
  assert json.loads((tmp_path / 'study.json').read_text())['results'] == results
  assert (tmp_path / 'study_nuclei.png').is_file()
  left, right = page.draw(results['nuclei'], times['nuclei'], study).axes
  assert [len(axes.containers) for axes in (left, right)] == [2, 2]
  np.testing.assert_allclose(right.containers[0].lines[0].get_xydata(), [[2.0, 0.55]])


def test_the_conclusion_takes_the_cheapest_and_fastest_of_those_that_are_as_accurate():
  results = {'best': runs(0.500), 'cheap': runs(0.494), 'fast': runs(0.491), 'behind': runs(0.489)}
  for name, cost in (('cheap', 0.5), ('fast', 1.0), ('behind', 0.1)):
    results[name][0][0]['gmac_mean'] = cost
  times = {name: {'None': {'openvino': {'median': median}}}
           for name, median in (('best', 9.0), ('cheap', 4.0), ('fast', 3.0), ('behind', 1.0))}
  assert page.conclusion(results, times)[:-1] == [
      'Most accurate: `best`, AP 0.500.',
      'Cheapest within 0.01 AP of it: `cheap`, AP 0.494 for 0.500 GMAC.',
      'Fastest of these in openvino: `fast`, AP 0.491 in 3.0 ms.']
  assert not page.conclusion({}, {})
  assert page.conclusion({'a': runs(0.0)}, {}) == [
      'AP is 0 for all: no network has learned to find objects. Train longer.']


@pytest.fixture
def study(tmp_path, monkeypatch):
  """Runs a study of two subjects whose trainings are faked; returns the names of these."""
  trained = []

  def train(training, subject, args):
    del subject
    trained.append((training.data.name, training.name, training.number))
    folder = training.folder(args.output_dir)
    (folder / 'result.json').write_text(json.dumps(runs(0.5)[0]))

  def command(module, **options):
    if module == 'tools.convert_dataset':
      (options['output_dir'] / 'annotations').mkdir(parents=True, exist_ok=True)
      objects = [] if options['input'] == 'empty' else [{'iscrowd': 0}]
      (options['output_dir'] / 'annotations' / 'val.json').write_text(
          json.dumps({'images': [{}], 'annotations': objects}))
    if module == 'tools.write_images':
      options['output_dir'].mkdir()

  monkeypatch.setattr(evidence, '_train', train)
  monkeypatch.setattr(evidence.comparison, 'command', command)
  monkeypatch.setattr(evidence.measuring, 'times', lambda folders, subjects, val: {})

  def call(*options, data=('one=x', 'two=y')):
    trained.clear()
    evidence.main(['--plan=gains', *(f'--data={one}' for one in data), '--subjects=fpn,fcos',
                   f'--output_dir={tmp_path}/out', *options])
    return list(trained)

  return call


def test_a_study_trains_everything_once_before_it_repeats_and_goes_on(study, tmp_path, capsys):
  first = [(data, name, 1) for data in ('one', 'two') for name in ('fpn', 'fcos')]
  assert study() == first and 'taken as it was' not in capsys.readouterr().out
  assert study('--repeats=2') == [(data, name, 2) for data, name, _ in first]
  assert f'--data=two=y: taken as it was when {tmp_path}/out/two was made' in (
      capsys.readouterr().out)
  page_of_study = tmp_path / 'out' / 'gains.md'
  assert '| `fcos` |  | 2 | 0.500 +- 0.000 |' in page_of_study.read_text()
  # The page keeps what earlier runs trained.  A plan also takes over networks that another plan
  # trained with the same options.
  assert study('--subjects=drfpn', data=['one=x']) == [('one', 'drfpn', 1)]
  text = page_of_study.read_text()
  assert '| `drfpn` |  | 1 |' in text
  assert '| `fcos` |  | 2 |' in text
  assert not study('--plan=frontier')
  text = (tmp_path / 'out' / 'frontier.md').read_text()
  assert '| `fcos` |  | 2 |' in text
  assert 'drfpn' not in text


def test_digits_are_composed_and_not_mirrored(tmp_path):
  (tmp_path / 'sample.json').write_text('{}')  # as tools.make_sample_data leaves it
  subject = plans.PLANS['gains'].subjects['fpn']
  field = 'task.train_data.parser.aug_rand_hflip'
  assert evidence._options(subject, DATA, ARGS)[field]
  for source in ('digits', 'digits:2000', str(tmp_path)):
    assert field not in evidence._options(subject, evidence.DataSet('x', source), ARGS)


@pytest.mark.parametrize('source, split', [
    ('digits', {}), ('digits:42', {'num_train': 32, 'num_val': 10})])
def test_a_composed_sample_has_as_many_images_as_wanted(source, split, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  made = []
  monkeypatch.setattr(evidence.comparison, 'command',
                      lambda name, **options: made.append((name, options)))
  folder = evidence._composed(evidence.DataSet('x', source))
  assert made == [('tools.make_sample_data', {'output_dir': folder, **split})]
  folder.mkdir(parents=True)
  assert evidence._composed(evidence.DataSet('x', source)) == folder
  assert len(made) == 1


def test_results_of_other_settings_are_refused(study):
  study()
  with pytest.raises(command_line.CommandError, match='has results of other settings'):
    study('--train_steps=8')


def test_records_of_other_data_under_a_kept_name_are_refused(study, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(evidence, '_write_options', lambda *_: sys.exit())
    with pytest.raises(SystemExit):  # The records are made, and nothing else.
      study()
  other_data = r'--data=one=z: .*/one has the records of x: give another --output_dir, or'
  with pytest.raises(command_line.CommandError, match=other_data):
    study(data=['one=z'])
  shutil.rmtree(tmp_path / 'out' / 'one' / 'val')  # Records without it are made anew.
  assert study(data=['one=z'])
  with pytest.raises(command_line.CommandError, match='has the records of z'):
    study('--subjects=drfpn', data=['one=x'])


def test_data_without_objects_are_converted_again_when_they_have_some(study):
  with pytest.raises(command_line.CommandError, match='--data=one=empty: the 1 images of valid'):
    study(data=['one=empty'])
  assert study(data=['one=x'])


def test_another_network_of_a_kept_name_is_refused(study, tmp_path, monkeypatch):
  study()
  other = plans.PLANS['wide'].subjects['fcos']
  monkeypatch.setitem(plans.PLANS['gains'].subjects, 'fcos', other)
  with pytest.raises(command_line.CommandError, match='fcos-1 is kept from a training with other'):
    study()
  study('--subjects=fpn')
  assert '`fcos`' not in (tmp_path / 'out' / 'gains.md').read_text()
  assert (tmp_path / 'out' / 'one' / 'fcos-1' / 'result.json').is_file()


@pytest.mark.parametrize('first, second', [
    *itertools.combinations(['frontier', 'full', 'gains'], 2)])
def test_networks_of_one_name_are_one_network_in_all_plans_of_small_images(first, second):
  first, second = (plans.PLANS[name].subjects for name in (first, second))
  assert {*first} & {*second}
  assert {name for name in {*first} & {*second} if first[name] != second[name]} == set()


def test_wrong_arguments_are_named(capsys):
  for arguments, words in (
      (['--plan=gains', '--data=x'], "'x' is not NAME=FOLDER, such as nuclei=data/nuclei"),
      (['--plan=gains', '--data=x=y', '--data=x=z'], '--data names x twice'),
      (['--plan=gains', '--data=x=digits:few'], 'digits:N needs a number of at least 8 images'),
      (['--plan=gains', '--data=x=y', '--subjects=fpn,pan'],
       '--subjects names pan; gains has fpn')):
    with pytest.raises(SystemExit):
      evidence.main(arguments)
    assert words in capsys.readouterr().err
