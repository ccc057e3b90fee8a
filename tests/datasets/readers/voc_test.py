"""Pascal VOC: XML files, lists of splits, and the images that the XML files are named after."""
import numpy as np

from dataset_files import by_reason, convert, write_image
from layout_files import read


def voc_object(name, corners, more=''):
  keys = ('xmin', 'ymin', 'xmax', 'ymax')
  box = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners))
  return f'<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>'


def write_voc(folder, stem, objects, suffix='.jpg'):
  (folder / 'Annotations').mkdir(parents=True, exist_ok=True)
  (folder / 'Annotations' / f'{stem}.xml').write_text(
      '<annotation><filename>old_name.jpg</filename><size><width>40</width>'
      f'<height>30</height></size>{"".join(objects)}</annotation>')
  write_image(folder / 'JPEGImages' / f'{stem}{suffix}')


def test_pascal_voc(tmp_path):
  write_voc(tmp_path, 'a', [voc_object('dog', (4, 3, 20, 15)),
                            voc_object('cat', (1, 1, 9, 9), '<difficult>1</difficult>')])
  write_voc(tmp_path, 'b', [])
  write_voc(tmp_path, 'c', [voc_object('cat', (0, 0, 40, 30))])
  (tmp_path / 'Annotations' / 'd.xml').write_text('<annotation><object>')
  lists = tmp_path / 'ImageSets' / 'Main'
  lists.mkdir(parents=True)
  (lists / 'train.txt').write_text('a\nb\nd\nnone\n')
  (lists / 'val.txt').write_text('c 1\n')
  converted = convert(tmp_path)
  train = converted.records['train']
  np.testing.assert_allclose(train[1]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[3, 4, 15, 20], [1, 1, 9, 9]], atol=1e-5)
  assert train[1]['groundtruth_classes'].tolist() == [2, 1]
  assert len(train[2]['groundtruth_classes']) == 0
  assert converted.records['val'][1]['groundtruth_classes'].tolist() == [1]
  broken = by_reason(converted.findings, 'dropped')['annotation file is broken or missing']
  assert [text.split()[0] for text in broken] == ['d.xml', 'none.xml']
  assert by_reason(converted.findings, 'noted')['object marked difficult: kept'] == [
      'a.xml object 2']


def test_images_are_found_by_the_stem_of_the_file_then_by_the_name_inside(tmp_path):
  write_voc(tmp_path, 'b', [voc_object('dog', ('x', 1, 2, 3)), voc_object('', (1, 1, 2, 2))])
  write_voc(tmp_path, 'a', [], '.PNG')
  write_voc(tmp_path, 'c', [], '.gif')
  write_voc(tmp_path, 'd', [])
  (tmp_path / 'JPEGImages' / 'd.jpg').unlink()
  (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)
  (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('a\nb\nc.gif\nd\n')
  (tmp_path / 'ImageSets' / 'Main' / 'val.txt').write_text('a\n')
  train = read(tmp_path).splits['train']
  assert [image['file_name'] for image in train.images] == ['a.PNG', 'b.jpg', 'c.gif',
                                                            'old_name.jpg']
  assert train.categories == [dict(id=1, name='dog')]
  assert [(entry['image_id'], entry['category_id'], entry['bbox']) for entry in train.annotations
          ] == [(2, 1, None), (2, None, [1, 1, 1, 1])]
