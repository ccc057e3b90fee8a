"""The quickstart from images to the report, with a few training steps."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import quickstart

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


# Blanks, quotes, and what has a meaning in shells, YAML, URLs, format strings and patterns.
ODD_NAME = 'My "data" [v2], O\'Neil #1: 100%? *{x}* back\\slash \u00fc'

# Every step that builds the detector traces a small one.
SMALL = ('task.init_checkpoint=null,task.train_data.global_batch_size=4,'
         'task.model.input_size=[64,64,3],task.model.max_level=5,task.model.backbone.type=resnet,'
         'task.model.backbone.resnet.model_id=10,'
         'task.model.backbone.resnet.depth_multiplier=0.25')


@pytest.mark.slow
def test_quickstart_writes_a_report_of_zipped_coco_folders_under_an_odd_name(
    sample_records, tmp_path):
  """The folders of a COCO download, whose images are not where the converter's own are."""
  coco, data = sample_records.parent / 'coco', tmp_path / ODD_NAME / 'coco'
  for split in ('train', 'val'):
    shutil.copytree(coco / 'images' / split, data / f'{split}2017')
    (data / 'annotations').mkdir(exist_ok=True)
    shutil.copy(coco / f'annotations/{split}.json',
                data / f'annotations/instances_{split}2017.json')
  archive = shutil.make_archive(str(data), 'zip', data)
  output = tmp_path / ODD_NAME / 'run'
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), f'--data={archive}',
       f'--output_dir={output}', '--train_steps=3', f'--params_override={SMALL}',
       '--networks=dyfpn_budget', '--engine=none'],
      cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 0, result.stderr[-2000:]
  report = json.loads((output / 'report.json').read_text())
  assert {'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max', 'gmac_inception_fpn', 'gmac_fpn',
          'saved_model_max_abs_diff', 'seconds_by_step'} <= set(report)
  assert report['gmac_min'] <= report['gmac_mean'] <= report['gmac_max']
  assert report['gmac_fpn'] < report['gmac_inception_fpn']
  assert report['saved_model_max_abs_diff'] < 1e-3
  assert set(report['seconds_by_step']) == {
      'convert', 'check', 'images', 'train', 'export', 'budgets', 'predict'}
  shown, = report['networks']
  assert (shown['name'], shown['gates']) == ('dyfpn_budget', 3)
  assert [point['budget'] for point in shown['budgets']] == [0, 0.25, 0.5, 0.75, 1]
  costs = json.loads((output / 'predictions' / 'costs.json').read_text())
  assert shown['budget'] == costs['budget'] in [0, 0.25, 0.5, 0.75, 1]
  for key in ('ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max'):
    assert shown[key] == pytest.approx(report[key])
  assert 0 <= shown['ap_low'] <= shown['ap_high'] <= 1
  assert 0 < shown['ms_min'] <= shown['ms_mean'] <= shown['ms_max']
  page = (output / 'report.html').read_text()
  assert page.count('<figure>') >= 6 and 'src="data:' in page


def convert(folder, crowds=(0,)):
  """Writes the annotations of one image, as tools.convert_dataset does; some objects are crowds."""
  (folder / 'annotations').mkdir(parents=True)
  (folder / 'annotations' / 'val.json').write_text(json.dumps(
      {'images': [{}], 'annotations': [{'iscrowd': crowd} for crowd in crowds]}))


@pytest.mark.parametrize('data, engine', [(None, 'openvino'), ('digits', 'none')])
def test_every_network_is_trained_alike_and_goes_into_the_report(
    tmp_path, monkeypatch, data, engine):
  monkeypatch.chdir(tmp_path)
  ran = []

  def run(self, name, module, log=None, **options):
    del log
    self.seconds[name] = 1.0
    ran.append((name, module, options))
    if module == 'tools.frontier':
      options['output_dir'].mkdir(parents=True)
      (options['output_dir'] / 'frontier.json').write_text('{"recommended": 0.25}')
    if module == 'serving.convert':
      options['output_dir'].mkdir(parents=True)
    if module == 'tools.convert_dataset':
      convert(options['output_dir'])

  monkeypatch.setattr(quickstart.Steps, 'run', run)
  monkeypatch.setattr(
      sys, 'argv', ['quickstart', '--train_steps=7', f'--output_dir={tmp_path}/run',
                    f'--engine={engine}', *([f'--data={data}'] if data else [])])
  quickstart.main()
  converted = ['openvino'] if engine == 'openvino' else []
  assert [name for name, *_ in ran] == [
      *(['sample'] if data else []), 'convert', 'check', 'images',
      *(f'{step} {name}' for name in ('fcos', 'fcos_dyfpn')
        for step in ('train', 'export', *converted, 'predict')),
      'train', 'export', *converted, 'budgets', 'predict', 'report']
  options = {name: given for name, _, given in ran}
  plain, shown = options['train fcos'], options['train']
  assert shown['params_override'].startswith(plain['params_override'])
  assert 'budget_input=true' in shown['params_override'].removeprefix(plain['params_override'])
  for key in ('config_file', 'mode'):
    assert plain[key] == shown[key]
  assert 'trainer.train_steps=7' in plain['params_override']
  assert 'task.frozen_stages=[stem,conv2_x,conv3_x,conv4_x]' in plain['params_override']
  # Mirrored digits are no digits.
  assert ('hflip=true' in plain['params_override']) == (not data)
  assert options['convert']['input'] == (
      pathlib.Path('runs/sample/coco') if data else CHECKOUT / 'data' / 'nuclei')
  assert (plain['experiment'], shown['experiment']) == (
      'fcos_fpn_efficientnetlite0_sample', 'fcos_dynamichead_efficientnetlite0_sample')
  assert (options['predict']['budget'], options['predict fcos'].get('budget')) == (0.25, None)
  assert options['export'].get('nms') == ('portable' if converted else None)
  run = tmp_path / 'run'
  conversions = [name for step in ('openvino fcos', 'openvino') if converted
                 for name in [options[step]['output_dir']]]
  assert options['report']['network'][::2] == [
      ['fcos', run / 'networks/fcos/saved_model', run / 'networks/fcos/predictions',
       *conversions[:1]],
      ['dynamic_head_d1_budget', run / 'saved_model', run / 'predictions', *conversions[1:]]]
  assert options['report']['saved_model'] == run / 'saved_model'


@pytest.mark.parametrize('crowds', [(), (1,)])
def test_data_without_objects_of_validation_end_the_run_before_the_training(
    crowds, tmp_path, monkeypatch):
  ran = []

  def run(self, name, module, log=None, **options):
    del self, module, log
    ran.append(name)
    if name == 'convert':
      convert(options['output_dir'], crowds)

  monkeypatch.setattr(quickstart.Steps, 'run', run)
  monkeypatch.setattr(sys, 'argv', ['quickstart', f'--output_dir={tmp_path}/run'])
  with pytest.raises(quickstart.command_line.CommandError,
                     match='--data=.*nuclei: the 1 images of validation have no object'):
    quickstart.main()
  assert ran == ['convert', 'check']


def test_a_conversion_that_is_refused_leaves_the_rest(tmp_path, monkeypatch, capsys):
  ran = []

  def status(self, module, arguments, log):
    del self, log
    ran.append(arguments)
    folder = pathlib.Path(arguments[-1].partition('=')[2])
    converts = module == 'official_ext.serving.convert'
    is_refused = converts and 'networks/fcos' in str(folder)
    if module == 'official_ext.tools.convert_dataset':
      convert(folder)
    if converts and not is_refused:
      folder.mkdir(parents=True)
    return int(is_refused)

  monkeypatch.setattr(quickstart.Steps, '_status', status)
  monkeypatch.setattr(sys, 'argv', [
      'quickstart', '--networks=fcos,dyfpn', f'--output_dir={tmp_path}/run', '--engine=openvino'])
  quickstart.main()
  report = ran[-1]
  first, second = (index for index, word in enumerate(report) if word == '--network')
  run = f'{tmp_path}/run'
  assert report[first:second] == ['--network', 'fcos', f'{run}/networks/fcos/saved_model',
                                  f'{run}/networks/fcos/predictions']
  assert report[second + 4] == f'{run}/openvino'
  said = capsys.readouterr().out
  assert "the step 'openvino fcos' ended with status 1" in said
  assert 'the report will not say what fcos takes in openvino' in said
  assert f'[{len(ran)}/{len(ran)}] report:' in said


def test_full_trains_every_network_three_times_and_goes_on(tmp_path, monkeypatch):
  import evidence
  given = []
  monkeypatch.setattr(evidence, 'main', given.append)
  monkeypatch.setattr(sys, 'argv', ['quickstart', '--full', f'--output_dir={tmp_path}/run',
                                    '--engine=none', '--data=digits'])
  (tmp_path / 'run').mkdir()
  quickstart.main()
  args = evidence._arguments(given[0])
  assert (args.repeats, args.train_steps, args.engine) == (3, 1000, 'none')
  assert args.subjects == list(quickstart.NETWORKS)
  assert args.data == [evidence.DataSet('images', 'digits')]
  assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_full_takes_no_more_options(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['quickstart', '--full', f'--output_dir={tmp_path}',
                                    '--params_override=task.lr=1'])
  with pytest.raises(SystemExit):
    quickstart.main()
  assert 'leave --params_override out' in capsys.readouterr().err


def test_options_of_every_network_resolve(monkeypatch):
  from official_ext import registry_imports
  from official_ext.utils import experiment
  monkeypatch.setattr(sys, 'argv', ['quickstart', '--train_steps=40'])
  args = quickstart._arguments()
  assert {'ifpn_budget', 'deformable_fpn', 'dynamic_head_replace_budget'} < {*quickstart.NETWORKS}
  for name, subject in quickstart.NETWORKS.items():
    params = experiment.resolve(
        subject.experiment, params_override=quickstart.training_overrides(args, subject))
    experiment.check_training(params)
    assert params.trainer.train_steps == 40
    # Only networks that take a budget are trained with one that is drawn.
    drawn = params.task.budget.kind == 'drawn'
    assert name.endswith('_budget') == bool(subject.budgets) == drawn, name


def test_unknown_networks_and_repeated_ones_are_refused(tmp_path):
  for networks in ('fpn,resnet', 'fpn,fpn'):
    result = subprocess.run(
        [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), f'--networks={networks}'],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
    assert result.returncode == 2
    assert f"'{networks}' is not a list of different ones of fpn, " in result.stderr


def test_quickstart_refuses_a_missing_folder_in_one_sentence(tmp_path):
  result = subprocess.run(
      [sys.executable, str(CHECKOUT / 'scripts' / 'quickstart.py'), '--data=nowhere'],
      cwd=tmp_path, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(CHECKOUT)}, check=False)
  assert result.returncode == 2
  assert result.stderr.strip() == 'error: --data=nowhere: no such file or folder.'
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('output', ['data', '.', '..'])
def test_an_output_folder_that_holds_the_data_or_the_current_folder_is_not_renamed(
    output, tmp_path, monkeypatch):
  (tmp_path / 'here' / 'data').mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'here')
  monkeypatch.setattr(sys, 'argv', ['quickstart', '--data=data', f'--output_dir={output}'])
  with pytest.raises(quickstart.command_line.CommandError,
                     match=f'--output_dir={output} would be renamed, .* lies in it: give a new'):
    quickstart.main()
  assert (tmp_path / 'here' / 'data').is_dir()


def test_an_earlier_run_is_renamed(tmp_path, monkeypatch, capsys):
  (tmp_path / 'run' / 'model').mkdir(parents=True)
  (tmp_path / 'run.1').mkdir()
  monkeypatch.setattr(quickstart.Steps, 'run', lambda *_, **options: sys.exit())
  monkeypatch.setattr(sys, 'argv', ['quickstart', f'--output_dir={tmp_path}/run'])
  with pytest.raises(SystemExit):
    quickstart.main()
  assert (tmp_path / 'run.2' / 'model').is_dir() and not (tmp_path / 'run').exists()
  assert f'run of an earlier run is now {tmp_path}/run.2' in capsys.readouterr().out


def test_the_carried_images_have_their_licence_and_source_beside_them():
  folder = CHECKOUT / 'data' / 'nuclei'
  assert 'CC0' in (folder / 'LICENSE').read_text()
  assert 'Licence' in (folder / 'SOURCE.md').read_text()
  for split, count in (('train', 125), ('val', 39)):
    listed = json.loads((folder / f'annotations/instances_{split}.json').read_text())['images']
    assert len(listed) == count
    assert all((folder / 'images' / entry['file_name']).is_file() for entry in listed)
