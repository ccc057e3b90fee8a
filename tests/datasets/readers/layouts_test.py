"""The layout is told from the files; without a val split a fifth of the images is held out."""
import pytest

from dataset_files import by_reason
from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import readers
from official_ext.datasets.readers import hold_out
from official_ext.utils import command_line


@pytest.mark.parametrize('files, layout', [
    (['annotations/train.json', 'train.csv'], 'coco'), (['instances.json'], 'coco'),
    (['Annotations/a.xml', 'train.json'], 'voc'), (['x.csv'], 'csv')])
def test_the_layout_is_told_from_the_files(tmp_path, files, layout):
  for name in files:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  assert readers.detect_format(tmp_path) == layout


def test_a_folder_without_annotations_is_refused(tmp_path):
  with pytest.raises(command_line.CommandError, match='is not a folder'):
    readers.detect_format(tmp_path / 'none')
  with pytest.raises(command_line.CommandError, match='is empty'):
    readers.detect_format(tmp_path)
  (tmp_path / 'notes.txt').touch()
  with pytest.raises(command_line.CommandError, match=r'Annotations/\*\.xml \(Pascal VOC\), '
                     r'annotations/\*\.json \(COCO\) or train\.csv \(CSV\)'):
    readers.detect_format(tmp_path)


def write_csv(path, count):
  path.write_text('image,xmin,ymin,xmax,ymax,class\n' + ''.join(
      f'{number}.jpg,1,1,9,9,cat\n' for number in range(count)))


def test_a_fifth_is_held_out_the_same_every_time(tmp_path):
  write_csv(tmp_path / 'all.csv', 10)
  names = []
  for _ in range(2):
    findings = findings_lib.Findings()
    splits = readers.read(tmp_path, 'csv', findings)
    train, val = ({image['file_name'] for image in splits[name].images}
                  for name in ('train', 'val'))
    assert len(train) == 8 and len(val) == 2 and not train & val
    for name in ('train', 'val'):
      assert {entry['image_id'] for entry in splits[name].annotations} == {
          image['id'] for image in splits[name].images}
    assert any('held out' in reason for reason in by_reason(findings.to_json(), 'noted'))
    names.append((train, val))
  assert names[0] == names[1]


def test_a_data_set_without_train_images_is_refused(tmp_path):
  (tmp_path / 'val.json').write_text('{"images": [], "annotations": [], "categories": []}')
  with pytest.raises(command_line.CommandError, match='no images to train on'):
    readers.read(tmp_path, 'coco', findings_lib.Findings())


def test_one_image_cannot_be_split():
  split = annotations.Split('train', 'source', [dict(id=1, file_name='a')], [], [], [])
  with pytest.raises(command_line.CommandError, match='source has 1 images: at least 2'):
    hold_out.hold_out(split)
