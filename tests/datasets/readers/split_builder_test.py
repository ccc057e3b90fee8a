"""A split keeps every image that has no file of its own apart from the others."""
from official_ext.datasets.readers import split_builder
from official_ext.datasets.sources import data_folder


def test_no_image_takes_the_name_of_another(tmp_path):
  (tmp_path / 'data').mkdir()
  (tmp_path / 'scratch').mkdir()
  data = data_folder.DataFolder(tmp_path / 'data', scratch=tmp_path / 'scratch')
  builder = split_builder.SplitBuilder('records')
  names = ('3_a.jpg', 'x/a.jpg', 'y/a.jpg', 'a.jpg', '4_a.jpg')
  ids = [builder.add_content(data, name.encode(), name) for name in names]
  assert ids == [1, 2, 3, 4, 5]
  kept = [found.path.read_bytes().decode() for found in builder._content.values()]
  assert kept == list(names)
  assert list(builder._content) == ['3_a.jpg', 'a.jpg', '4_a.jpg', '5_a.jpg', '5_4_a.jpg']
