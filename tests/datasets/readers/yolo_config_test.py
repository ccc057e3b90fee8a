"""The configuration of a YOLO data set means its own images, whatever else lies beside it."""
import pytest

from dataset_files import by_reason, convert
from layout_files import assert_is_truth, NAMES, opened, read, write, yolo
from official_ext.datasets.readers import yolo_paths
from official_ext.utils import command_line

SPLITS = 'train: images/train\nval: images/val\n'
OTHER = 'names: [blue]\n'


@pytest.fixture
def copies(tmp_path):
  """A folder with the data set in `v2`, and in `v1` its images with other labels."""
  yolo('v2/images/{}', 'v2/labels/{}', {})(tmp_path)
  yolo('v1/images/{}', 'v1/labels/{}', {})(tmp_path)
  for path in tmp_path.glob('v1/labels/*/*.txt'):
    write(path, '0 0.5 0.5 0.1 0.1\n')
  return tmp_path


@pytest.mark.parametrize('place, text', [
    ('data.yaml', 'path: v2\n' + SPLITS), ('data.yaml', 'path: ../datasets/v2\n' + SPLITS),
    ('data.yaml', 'path: C:\\data\\v2\n' + SPLITS), ('v2/data.yaml', SPLITS),
    ('v2/data.yaml', 'path: .\n' + SPLITS), ('v2/data.yaml', 'path: /content/mine\n' + SPLITS),
    ('cfg/data.yaml', 'train: ../v2/images/train\nval: ../v2/images/val\n'),
    ('data.yaml', 'path: v2\ntrain: /old/images/train\nval: [../valid/images/val]\n')])
def test_images_are_those_below_path_or_beside_the_configuration(copies, place, text):
  write(copies / place, NAMES + text)
  with opened(copies) as (_, splits, _):
    assert_is_truth(splits, has_masks=False)


def test_lists_of_images_are_those_below_path(copies):
  for folder in ('v1', 'v2'):
    for split in ('train', 'val'):
      write(copies / folder / f'{split}.txt', ''.join(
          f'./{path.relative_to(copies / folder)}\n'
          for path in sorted((copies / folder / 'images' / split).iterdir())))
  write(copies / 'data.yaml', NAMES + 'path: v2\ntrain: train.txt\nval: val.txt\n')
  with opened(copies) as (_, splits, _):
    assert_is_truth(splits, has_masks=False)


def test_a_folder_that_path_does_not_hold_is_not_taken_from_elsewhere(copies):
  write(copies / 'v1' / 'images' / 'more' / 'a.png', '')
  write(copies / 'data.yaml', NAMES + 'path: v2\n' + SPLITS + 'test: images/more\n')
  _, splits, findings = read(copies)
  assert by_reason(findings, 'dropped')['data.yaml names a folder or list that is not there'] == [
      'images/more']
  assert len(splits['train'].images) == 3


@pytest.mark.parametrize('files, message', [
    ({'data.yaml': NAMES + SPLITS}, 'may be v1/images/train or v2/images/train'),
    ({'v1/data.yaml': OTHER + SPLITS, 'v2/data.yaml': NAMES + SPLITS},
     'v2/data.yaml and .*v1/data.yaml name other classes or images'),
    ({'v1/data.yaml': NAMES + SPLITS, 'v2/data.yaml': NAMES + SPLITS}, 'other classes or images'),
    ({'v1/labels/classes.txt': 'green\nred\n', 'v2/labels/classes.txt': 'red\ngreen\n'},
     'classes.txt and .*classes.txt name other classes')])
def test_what_may_be_one_of_two_is_refused(copies, files, message):
  for name, text in files.items():
    write(copies / name, text)
  with pytest.raises(command_line.CommandError, match=message):
    read(copies)


@pytest.mark.parametrize('files', [
    {'custom_yolov5s.yaml': 'nc: 2\nbackbone: []\n', 'data.yaml': NAMES},
    {'backup/data.yaml': OTHER + SPLITS, 'data.yaml': NAMES + SPLITS},
    {'a.yaml': OTHER, 'data.yaml': NAMES + SPLITS},
    {'a.yaml': NAMES + SPLITS, 'b.yaml': NAMES + 'train: train\nval: val\n'},
    {'labels/train/classes.txt': 'red\n', 'labels/val/classes.txt': 'red\ngreen\n\n'}])
def test_the_configuration_that_says_most_is_taken(tmp_path, files):
  yolo('images/{}', 'labels/{}', files)(tmp_path)
  with opened(tmp_path) as (_, splits, _):
    assert_is_truth(splits, has_masks=False)


def test_the_number_of_an_unknown_class_is_told(tmp_path):
  yolo('images/{}', 'labels/{}', {'data.yaml': NAMES})(tmp_path)
  write(tmp_path / 'labels/train/a0.txt', '7 0.5 0.5 0.1 0.1\n')
  converted = convert(tmp_path)
  assert by_reason(converted.findings, 'dropped')['category is unknown'] == [
      'a0.png annotation labels/train/a0.txt line 1 class 7']


def test_the_closest_candidate_is_in_the_fewest_folders():
  candidates = ['a/b/train/images', 'c/train/images', 'masks/train']
  assert yolo_paths.closest('../train/images', candidates) == 'c/train/images'
  assert yolo_paths.closest('Train\\Images\\', candidates, ['a/b']) == 'a/b/train/images'
  assert yolo_paths.closest('nothing', candidates) is None
