"""What people's files have: encodings, odd rows, shapes of all kinds, and lines that are wrong."""
import json

import numpy as np
from PIL import Image
import pytest

from dataset_files import by_reason
from layout_files import (
    assert_is_truth, csv_text, draw, NAMES, opened, read, save, save_all, SIZE, TRUTH, TUTORIAL,
    voc_text, write, WRITTEN, yolo, yolo_text)
from official_ext.datasets import masks
from official_ext.utils import command_line

BOXES = TRUTH['train']['a0.png']


@pytest.mark.parametrize('name, suffixes', [
    ('csv_tutorial', '.csv'), ('roboflow_csv', '.csv'), ('keras_retinanet', '.csv'),
    ('coco_2017', '.json'), ('labelme', '.json'), ('cvat', '.xml'), ('voc_lists', ('.xml', '.txt')),
    ('yolo', ('.txt', '.yaml')), ('darknet', ('.txt', '.names', '.data'))])
@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_every_layout_is_read_in_every_encoding(tmp_path, name, suffixes, encoding):
  WRITTEN[name].writer(tmp_path)
  for path in tmp_path.rglob('*'):
    if path.name.endswith(suffixes):
      text = path.read_text().replace('encoding="utf-8"', f'encoding="{encoding[:6]}"')
      path.write_bytes(text.replace('\n', '\r\n').encode(encoding))
  with opened(tmp_path) as (choice, splits, _):
    assert choice.layout == WRITTEN[name].layout
    assert_is_truth(splits, WRITTEN[name].has_masks)


def write_table(folder, text, encoding='utf-8'):
  save_all(folder)
  (folder / 'train.csv').write_bytes(text.encode(encoding))


@pytest.mark.parametrize('first, line', [
    ('image;xmin;ymin;xmax;ymax;class\n', '{name};{x1},0;{y1},0;{x2},0;{y2},0;{label}'),
    ('Image\tXmin\tYmin\tXmax\tYmax\tClass\n', '{name}\t{x1}\t{y1}\t{x2}\t{y2}\t{label}'),
    ('IMAGE , XMIN , YMIN , XMAX , YMAX , CLASS\n', '{name} , {x1} , {y1} , {x2} , {y2} , {label}'),
    ('"image","xmin","ymin","xmax","ymax","label"\n',
     '"{name}","{x1},0","{y1}","{x2}","{y2}",{label}'),
    ('file_name,x_min,y_min,x_max,y_max,label_name,class\n',
     'images\\{name},{x1},{y1},{x2},{y2},{label},5\n'),
    ('image,xmin,ymin,xmax,ymax,class\n', '{name},{x1},{y1},{x2},{y2},{label},,')])
def test_tables_as_spreadsheets_write_them(tmp_path, first, line):
  write_table(tmp_path, csv_text('train', line, first) + '\n\n,,,,,\n')
  write(tmp_path / 'val.csv', csv_text('val', line, first))
  with opened(tmp_path) as (_, splits, findings):
    assert_is_truth(splits, has_masks=False)
    assert not by_reason(findings, 'dropped')


def test_names_in_cp1252_are_told(tmp_path):
  text = csv_text('train', TUTORIAL[1].replace('{label}', 'café {label}'), TUTORIAL[0])
  write_table(tmp_path, text, 'cp1252')
  _, splits, findings = read(tmp_path)
  assert [category['name'] for category in splits['train'].categories] == ['café green', 'café red']
  (reason,) = [reason for reason in by_reason(findings, 'noted') if 'cp1252' in reason]
  assert by_reason(findings, 'noted')[reason] == ['train.csv']


@pytest.mark.parametrize('text, message', [
    (TUTORIAL[0], r'train\.csv has no line of values; it ends after its first line'),
    (TUTORIAL[0] + 'a0.png,60,40,red,4,0,5,0,24,0,17,0\n',
     r'train\.csv has no line of values; line 2 has 12 values for 8 columns: quote numbers with '
     'decimal commas, or separate values by semicolons'),
    ('', r'train\.csv is empty'), ('a;b\n1;2\n', r'train\.csv has no column image')])
def test_tables_that_cannot_be_read_say_why(tmp_path, text, message):
  write_table(tmp_path, text)
  with pytest.raises(command_line.CommandError, match=message):
    read(tmp_path)


def test_odd_lines_of_a_table_are_told(tmp_path):
  write_table(tmp_path, csv_text('train', TUTORIAL[1], TUTORIAL[0]) + TUTORIAL[0] +
              'a0.png,60,40,red,1,2,3,4,5\na1.png,60,40,red,x,2,3,4\na1.png,60\n')
  _, splits, findings = read(tmp_path)
  reason = 'line has more values than the 8 columns'
  assert by_reason(findings, 'noted')[reason] == ['train.csv line 8 9 values']
  assert by_reason(findings, 'noted')['first line is repeated: not read'] == ['train.csv line 7']
  boxes = [entry['bbox'] for split in splits.values() for entry in split.annotations]
  assert boxes.count(None) == 2 and len(boxes) == 7


def test_a_table_with_a_column_of_boxes(tmp_path):
  write_table(tmp_path, 'image_id,width,height,bbox,label\n' + ''.join(
      f'{name.split(".")[0]},60,40,"[{box[1]}.0, {box[2]}, {box[3]}, {box[4]}]",{box[0]}\n'
      for name, boxes in TRUTH['train'].items() for box in boxes))
  write(tmp_path / 'val.csv', csv_text('val', TUTORIAL[1], TUTORIAL[0]))
  with opened(tmp_path) as (_, splits, _):
    assert_is_truth(splits, has_masks=False)


def test_lines_of_keras_retinanet(tmp_path):
  save_all(tmp_path)
  line = 'images/{name},{x1},{y1},{x2},{y2},{label}'
  write(tmp_path / 'annotations.csv',
        csv_text('train', line) + 'images/b0.png,,,,,\nimages/b1.png,1,2\n')
  write(tmp_path / 'classes.csv', 'green,0\nred,1\nblue,2\n')
  choice, splits, findings = read(tmp_path)
  assert choice.layout == 'keras_retinanet'
  assert splits['train'].categories == [dict(id=number, name=name) for number, name in enumerate(
      ('green', 'red', 'blue'))]
  assert sum(len(split.images) for split in splits.values()) == 5
  assert by_reason(findings, 'noted')['line has not 6 values'] == [
      'annotations.csv line 7 3 values']
  assert [entry['id'] for split in splits.values() for entry in split.annotations
          if entry['bbox'] is None] == ['annotations.csv line 7']
  write(tmp_path / 'classes.csv', 'green\n')
  with pytest.raises(command_line.CommandError, match=r'classes\.csv must have lines of a class'):
    read(tmp_path)


def test_odd_lines_of_yolo_labels_are_told(tmp_path):
  yolo('images/{}', 'labels/{}', {'data.yaml': NAMES})(tmp_path)
  label = tmp_path / 'labels/train/a0.txt'
  good = yolo_text(BOXES)
  label.write_text(good + 'x 0.1 0.1 0.1 0.1\n0 0.1 0.1 0.1\n1.5 .1 .1 .1 .1\n'
                   '0 .1 .1 .1 .1 .2 .2 .3\n\n7 0.5 0.5 0.1 0.1\n1,0 0,5 0,5 0,1 0,1 0.9\n')
  (tmp_path / 'labels/train/a1.txt').unlink()
  (tmp_path / 'labels/train/a2.txt').write_bytes(b'\x00\x01')
  write(tmp_path / 'labels/train/alone.txt', good)
  (tmp_path / 'images/val/b0.png').write_bytes(b'no image')
  _, splits, findings = read(tmp_path)
  train = splits['train']
  found = [(entry['id'], entry['category_id']) for entry in train.annotations if entry['bbox']]
  place = 'labels/train/a0.txt line '
  assert found == [(f'{place}1', 0), (f'{place}2', 1), (f'{place}8', None), (f'{place}9', 1)]
  np.testing.assert_allclose(train.annotations[7]['bbox'], [27, 18, 6, 4])
  assert [entry['id'] for entry in train.annotations if not entry['bbox']] == [
      *(f'{place}{number}' for number in (3, 4, 5, 6)), 'labels/train/a2.txt line 1']
  noted = by_reason(findings, 'noted')
  assert {reason: [text.split(' ')[2] for text in texts] for reason, texts in noted.items()
          if 'line' in reason} == {
              'class of a label line is neither a number nor one of the names': ['3'],
              'label line has less than 5 values': ['4'],
              'class number of a label line is not whole': ['5'],
              'label line has an odd number of coordinates': ['6']}
  assert by_reason(findings, 'dropped') == {'label file has no image': ['labels/train/alone.txt']}
  assert noted['label file cannot be read'][0].startswith('labels/train/a2.txt')
  assert noted['image has no label file: taken as without boxes'] == [
      'images/train/a1.png']
  assert [image['file_name'] for image in splits['val'].images] == ['b0.png', 'b1.png']


def test_names_in_place_of_numbers_in_yolo_labels(tmp_path):
  """Only names of one class count, the longest that fits; they may have numbers in them."""
  names = 'names: [red, traffic  light, twin, twin, class 5, red 2, 7 up]\n'
  yolo('images/{}', 'labels/{}', {'data.yaml': names})(tmp_path)
  (tmp_path / 'labels/train/a0.txt').write_text(
      'red 0.5 0.5 0.1 0.1\ntraffic light 0,5 0.5 0.1 0.1\ntwin 0.5 0.5 0.1 0.1\n'
      'blue 0.5 0.5 0.1 0.1\nRed\nred 0.5 0.5 x 0.1\n1 0.5 0.5 0.1 0.1\n'
      'class 5 0.5 0.5 0.1 0.1\nred 2 0.5 0.5 0.1 0.1\n7 up 0.5 0.5 0.1 0.1\n')
  _, splits, findings = read(tmp_path)
  found = [(entry['category_id'], entry['bbox']) for entry in splits['train'].annotations
           if entry['id'].startswith('labels/train/a0.txt')]
  assert [number for number, _ in found] == [0, 1, None, None, None, None, 1, 4, 5, 6]
  for number in (0, 1, 6, 7, 8, 9):
    np.testing.assert_allclose(found[number][1], [27, 18, 6, 4])
  noted = by_reason(findings, 'noted')
  wrong = noted['class of a label line is neither a number nor one of the names']
  assert [text.split(' ')[2] for text in wrong] == ['3', '4', '5']
  assert len(noted['label line has something that is not a number']) == 1


def test_key_points_and_turned_boxes_of_yolo(tmp_path):
  yolo('images/{}', 'labels/{}', {'data.yaml': NAMES + 'kpt_shape: [2, 3]\n'})(tmp_path)
  label = tmp_path / 'labels/train/a0.txt'
  label.write_text('0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.3 0.3 2\n'
                   '1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5')
  boxes = [entry['bbox'] for entry in read(tmp_path).splits['train'].annotations[:2]]
  np.testing.assert_allclose(boxes, [[24, 16, 12, 8], [15, 10, 30, 20]])


@pytest.mark.parametrize('text, names', [
    ('names:\n- no\n- "on"\n- 1\n', ['no', 'on', '1']),
    ("names: {'0': a, '2': c}\n", ['a', None, 'c']),
    ('names: labels.names\n', ['red', 'green'])])
def test_names_of_yolo_classes(tmp_path, text, names):
  yolo('images/{}', 'labels/{}', {'data.yaml': text, 'labels.names': 'red\ngreen\n\n'})(tmp_path)
  categories = read(tmp_path).splits['train'].categories
  assert categories == [dict(id=number, name=name) for number, name in enumerate(names) if name]


@pytest.mark.parametrize('text, message', [
    ('names: [a\n', 'is not YAML'), ('names: {x: a}\n', 'keys of names must be whole numbers'),
    ('names: none.txt\n', 'there is no such file'),
    ('a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n', 'must be a list of texts'),
    ('names: [a]\ntrain: {a: b}\n', 'train, val and test must be a folder'),
    ('names: ' + '[' * 600, 'is not YAML')])
def test_yaml_that_cannot_be_read(tmp_path, text, message):
  yolo('images/{}', 'labels/{}', {'data.yaml': text})(tmp_path)
  with pytest.raises(command_line.CommandError, match=f'data.yaml.*{message}'):
    read(tmp_path)


def test_a_turned_photo_has_the_size_that_a_viewer_shows(tmp_path):
  yolo('{}', '{}', {'classes.txt': 'red\ngreen\n'})(tmp_path)
  exif = Image.Exif()
  exif[0x0112] = 6
  draw(BOXES).rotate(90, expand=True).save(tmp_path / 'train' / 'a0.png', exif=exif)
  train = read(tmp_path).splits['train']
  assert (train.images[0]['width'], train.images[0]['height']) == SIZE
  np.testing.assert_allclose(train.annotations[0]['bbox'], BOXES[0][1:], atol=1e-3)


def test_shapes_of_labelme(tmp_path):
  shapes = [dict(label='red', shape_type='circle', points=[[30, 20], [30, 10]]),
            dict(label='red', shape_type='polygon', group_id=1, points=[[0, 0], [9, 0], [9, 9]]),
            dict(label='red', shape_type='polygon', group_id=1, points=[[20, 0], [30, 0], [30, 9]]),
            dict(label='green', shape_type='linestrip', points=[[0, 0], [9, 0], [9, 9]]),
            dict(label='green', points=[['x', 0]]), 5]
  for name in ('a', 'b'):
    save(tmp_path / f'{name}.png', [])
    write(tmp_path / f'{name}.json', json.dumps(dict(shapes=shapes, imagePath=f'{name}.png')))
  write(tmp_path / 'c.json', '{"shapes": [')
  write(tmp_path / 'd.json', '{"other": 1}')
  _, splits, findings = read(tmp_path)
  circle, group = [entry for entry in splits['train'].annotations if entry['bbox']]
  np.testing.assert_allclose(circle['bbox'], [20, 10, 20, 20], atol=0.1)
  assert abs(masks.decode_mask(circle['segmentation'], 40, 60).sum() - np.pi * 100) < 12
  assert group['bbox'] == [0, 0, 30, 9] and len(group['segmentation']) == 2
  assert len(splits['train'].annotations) == 4
  noted = by_reason(findings, 'noted')
  assert noted['shape linestrip has no area: not read'] == ['a.json shape 4', 'b.json shape 4']
  assert noted['shape has no points that can be read'] == [
      f'{name}.json shape {number}: no list of pairs' for name in 'ab' for number in (5, 6)]
  (broken,) = by_reason(findings, 'dropped')['annotation file is broken or missing']
  assert broken.startswith('c.json')
  assert noted['JSON file has no list of shapes: not read'] == ['d.json']


def test_shapes_of_cvat(tmp_path):
  shapes = ('<box label="red" xtl="20" ytl="10" xbr="40" ybr="14" rotation="90"/>'
            '<ellipse label="red" cx="30" cy="20" rx="10" ry="5"/>'
            '<mask label="green" rle="1, 2, 3" left="58" top="5" width="3" height="2"/>'
            '<polyline label="red" points="1,2;3,4"/><box label="red" xtl="1" ytl="1"/>'
            '<mask label="green" rle="1, 2" left="1" top="5" width="3" height="2"/>')
  image = '<image id="{0}" name="{0}.png" width="60" height="40">{1}</image>'
  for name in 'ab':
    save(tmp_path / 'images' / f'{name}.png', [])
  write(tmp_path / 'annotations.xml', f'<annotations>{image.format("a", shapes)}'
        f'{image.format("b", "")}</annotations>')
  _, splits, findings = read(tmp_path)
  objects = [entry for split in splits.values() for entry in split.annotations]
  np.testing.assert_allclose(objects[0]['bbox'], [28, 2, 4, 20])
  np.testing.assert_allclose(objects[1]['bbox'], [20, 15, 20, 10])
  mask = masks.decode_mask(objects[2]['segmentation'], 40, 60)
  assert np.argwhere(mask).tolist() == [[5, 59]]  # the last column is outside of the image
  assert [entry['bbox'] for entry in objects[3:]] == [None, None]
  assert by_reason(findings, 'noted')['shape polyline has no area: not read'] == [
      'a.png polyline 4']
  write(tmp_path / 'annotations.xml', '<annotations><track id="0"/></annotations>')
  with pytest.raises(command_line.CommandError, match='has a video: export the task as'):
    read(tmp_path)


def test_entities_in_xml_are_never_expanded(tmp_path):
  for name in 'ab':
    save(tmp_path / f'{name}.png', [])
    write(tmp_path / f'{name}.xml', voc_text(f'{name}.png', BOXES))
  write(tmp_path / 'c.xml', '<!DOCTYPE x [<!ENTITY a "bbbb">]><annotation>&a;</annotation>')
  (text,) = by_reason(read(tmp_path).findings, 'dropped')['annotation file is broken or missing']
  assert text == 'c.xml it defines entities, which are never expanded'


def test_lists_of_voc_with_paths_and_missing_files(tmp_path):
  WRITTEN['voc_nested'].writer(tmp_path)
  write(tmp_path / 'ImageSets/Main/train.txt',
        'JPEGImages/train/a0.png Annotations/train/a0.xml\ntrain/a1\na2.png\nnone 1\n')
  write(tmp_path / 'ImageSets/Main/val.txt', 'val\\b0\r\nb1  1\r\n\r\n')
  with opened(tmp_path) as (_, splits, findings):
    assert_is_truth(splits, has_masks=False)
    assert by_reason(findings, 'dropped') == {
        'annotation file is broken or missing': ['none.xml']}


def test_images_of_one_name_in_two_splits_are_not_mixed(tmp_path):
  """Each split has its own 1.png, in layouts whose folders say the split."""
  for split, boxes in (('train', TRUTH['train']['a1.png']), ('valid', TRUTH['val']['b1.png'])):
    for folder, name in (('voc', f'{split}/1.xml'), ('yolo', f'{split}/labels/1.txt')):
      write(tmp_path / folder / name, voc_text('1.png', boxes) if folder == 'voc' else
            yolo_text(boxes))
    save(tmp_path / 'voc' / split / '1.png', boxes)
    save(tmp_path / 'yolo' / split / 'images' / '1.png', boxes)
  write(tmp_path / 'yolo/classes.txt', 'red\ngreen\n')
  for folder in ('voc', 'yolo'):
    _, splits, _ = read(tmp_path / folder)
    for name, split in (('train', 'train'), ('val', 'valid')):
      (entry,) = splits[name].annotations
      boxes = TRUTH['train']['a1.png'] if name == 'train' else TRUTH['val']['b1.png']
      np.testing.assert_allclose(entry['bbox'], boxes[0][1:], atol=0.001)
      assert split in splits[name].find_image('1.png').parts


def test_train_and_val_that_are_the_same_folder(tmp_path):
  yolo('images', 'labels', {'data.yaml': NAMES + 'train: images\nval: images\n'})(tmp_path)
  _, splits, findings = read(tmp_path)
  assert len(splits['train'].images) == 4 and len(splits['val'].images) == 1
  assert 'train and val are the same images: val is not read' in by_reason(findings, 'noted')


def test_images_that_labelme_files_hold_and_cannot_be_decoded(tmp_path):
  WRITTEN['labelme_embedded'].writer(tmp_path)
  path = tmp_path / 'train' / 'a1.json'
  write(path, json.dumps({**json.loads(path.read_text()), 'imageData': '???'}))
  _, splits, findings = read(tmp_path)
  assert list(by_reason(findings, 'dropped')) == ['imageData is not an image']
  assert len(splits['train'].images) == 2


def test_lists_of_darknet_without_a_configuration(tmp_path):
  yolo('', '', {'classes.txt': 'red\ngreen\n', **{
      file: ''.join(f'somewhere/{name}\n' for name in TRUTH[split])
      for split, file in (('train', 'train.txt'), ('val', 'test.txt'))}})(tmp_path)
  with opened(tmp_path) as (_, splits, _):
    assert_is_truth(splits, has_masks=False)


def test_links_out_of_the_folder_are_told(tmp_path):
  WRITTEN['coco_2017'].writer(tmp_path / 'other')
  data = tmp_path / 'data'
  WRITTEN['coco_2017'].writer(data)
  (data / 'train2017').rename(tmp_path / 'moved')
  (data / 'train2017').symlink_to(tmp_path / 'moved')
  _, splits, findings = read(data)
  assert all(isinstance(found, Exception) for found in splits['train'].found.values())
  (reason,) = by_reason(findings, 'noted')
  assert reason.startswith('link leads out')
  assert by_reason(findings, 'noted')[reason] == ['train2017']
  with opened(data, follow_links=True) as (_, splits, _):
    assert_is_truth(splits, has_masks=True)


@pytest.mark.parametrize('layout, name, content, message', [
    ('csv', 'val.csv', '', 'val.csv is empty'),
    ('csv', 'train.csv', 'file,x\n', 'train.csv has no column image, xmin'),
    ('coco', 'annotations/val.json', '', 'val.json is not a JSON file'),
    ('roboflow_coco', 'train/_annotations.coco.json', '{}', 'not a COCO detection file')])
def test_a_split_whose_file_is_damaged_is_not_passed_over(tmp_path, layout, name, content, message):
  WRITTEN[layout].writer(tmp_path)
  (tmp_path / name).write_text(content)
  write(tmp_path / 'notes' / 'test_results.json', '{}')
  write(tmp_path / 'notes' / 'val_results.csv', '1\n')
  with pytest.raises(command_line.CommandError, match=message):
    read(tmp_path)
