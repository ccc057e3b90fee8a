"""The layout is told from the files; without a val split a fifth of the images is held out."""
import pytest

from dataset_files import by_reason
from layout_files import read, WRITTEN, write
from official_ext.datasets import annotations
from official_ext.datasets import readers
from official_ext.datasets.readers import hold_out
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line


def choose(folder):
  with data_folder.open_input(folder) as data:
    return readers.choose(data)


def test_the_most_specific_of_several_layouts_is_taken_and_said(tmp_path):
  for name in ('voc_beside', 'csv', 'yolo', 'coco'):
    WRITTEN[name].writer(tmp_path)
  choice = choose(tmp_path)
  assert choice.layout == 'coco'
  assert choice.reason.startswith('told by annotations/train.json, annotations/val.json; it could')
  for other in ('voc (train/a0.xml)', 'csv (train.csv)', 'yolo (data.yaml)'):
    assert f'--format={other}' in choice.reason
  assert len(read(tmp_path, 'csv').splits['train'].annotations) == 5


def test_a_folder_without_annotations_is_refused(tmp_path):
  with pytest.raises(command_line.CommandError, match='there is nothing of that name'):
    choose(tmp_path / 'none')
  with pytest.raises(command_line.CommandError, match='is empty'):
    choose(tmp_path)
  write(tmp_path / 'notes.txt', 'hello world')
  with pytest.raises(command_line.CommandError) as error:
    choose(tmp_path)
  assert 'coco: JSON files with images, annotations and categories; ' in str(error.value)
  assert 'Saw 1 .txt, such as notes.txt.' in str(error.value)
  with pytest.raises(command_line.CommandError, match='is not a folder or a zip file'):
    choose(tmp_path / 'notes.txt')


def write_csv(path, count):
  path.write_text('image,xmin,ymin,xmax,ymax,class\n' + ''.join(
      f'{number}.jpg,1,1,9,9,cat\n' for number in range(count)))


def test_a_fifth_is_held_out_the_same_every_time(tmp_path):
  write_csv(tmp_path / 'all.csv', 10)
  names = []
  for _ in range(2):
    _, splits, findings = read(tmp_path)
    train, val = ({image['file_name'] for image in splits[name].images}
                  for name in ('train', 'val'))
    assert len(train) == 8 and len(val) == 2 and not train & val
    for name in ('train', 'val'):
      assert {entry['image_id'] for entry in splits[name].annotations} == {
          image['id'] for image in splits[name].images}
    assert any('held out' in reason for reason in by_reason(findings, 'noted'))
    names.append((train, val))
  assert names[0] == names[1]


def test_a_data_set_without_train_images_is_refused(tmp_path):
  (tmp_path / 'val.json').write_text('{"images": [], "annotations": [], "categories": []}')
  with pytest.raises(command_line.CommandError, match='no images to train on'):
    read(tmp_path)


def test_one_image_cannot_be_split():
  split = annotations.Split('train', 'source', [dict(id=1, file_name='a')], [], [], [])
  with pytest.raises(command_line.CommandError, match='source has 1 images: at least 2'):
    hold_out.hold_out(split)


def test_folders_that_convert_has_written_are_no_data(tmp_path):
  WRITTEN['csv'].writer(tmp_path)
  WRITTEN['coco'].writer(tmp_path / 'records')
  assert choose(tmp_path).layout == 'coco'
  for name in ('dataset.json', 'overrides.yaml', 'report.json'):
    write(tmp_path / 'records' / name, '{}')
  assert choose(tmp_path).layout == 'csv'
