"""Parsers that give padded ground-truth boxes, instead of assigned anchors or beside them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from official.common import dataset_fn
from official.vision.dataloaders import input_reader
from official.vision.dataloaders import input_reader_factory
from official.vision.dataloaders import retinanet_input
from official.vision.dataloaders import tf_example_decoder
from official.vision.dataloaders import tf_example_label_map_decoder
from official.vision.dataloaders import tfds_factory
from official.vision.ops import anchor
from official.vision.ops import preprocess_ops
import tensorflow as tf

Labels = dict[str, Any]
# The label of a training image that tells which image it is.
IMAGE_HASH = 'image_hash'
_HASHES = 2 ** 62
_PADDING = -1


def image_hash(source_id: tf.Tensor) -> tf.Tensor:
  """Returns hashes of `image/source_id`, int64, because TPUs take no text."""
  return tf.strings.to_hash_bucket_fast(source_id, _HASHES)


def _with_crowd(data: Mapping[str, tf.Tensor], is_crowd: tf.Tensor) -> dict[str, tf.Tensor]:
  """Returns an example with one more attribute of each box, `is_crowd`, int32.

  Model Garden's parser filters and permutes attributes together with their boxes.

  Args:
    data: an example from Model Garden's decoder.
    is_crowd: bool `[instances]`.
  """
  attributes = {**data.get('groundtruth_attributes', {}), 'is_crowd': tf.cast(is_crowd, tf.int32)}
  return {**data, 'groundtruth_attributes': attributes}


class _BoxLabeler:
  """Takes the place of Model Garden's anchors and labeler, and returns the boxes unassigned."""

  def __init__(self, max_num_instances: int):
    """Initializes the labeler.

    Args:
      max_num_instances: number of boxes after padding.
    """
    self._size = max_num_instances

  def anchors(self, image_size: Sequence[int]) -> Mapping[str, tf.Tensor]:
    """Returns no anchors; called in the place of Model Garden's anchor generator."""
    del image_size
    return {}

  def label_anchors(self, anchor_boxes, boxes, classes, attributes) -> tuple[Any, ...]:
    """Returns what Model Garden's labeler does, with boxes in the place of anchors.

    Args:
      anchor_boxes: not used.
      boxes: float32 `[instances, 4]`.
      classes: `[instances, 1]`.
      attributes: of the boxes, with `is_crowd` of `_with_crowd`.

    Returns:
      Classes, int32 `[max_num_instances]`, and boxes, float32 `[max_num_instances, 4]`, without
      crowds and padded with -1; no attributes and no weights.
    """
    del anchor_boxes
    is_object = attributes['is_crowd'] == 0
    boxes, classes = (
        preprocess_ops.clip_or_pad_to_fixed_size(values[is_object], self._size, _PADDING)
        for values in (boxes, tf.cast(classes[:, 0], tf.int32)))
    return classes, boxes, {}, None, None


class Parser(retinanet_input.Parser):
  """Model Garden's RetinaNet parser with its augmentation, but without assigned anchors."""

  def __init__(self, output_size: Sequence[int], max_level: int, **kwargs):
    """Initializes the parser.

    Args:
      output_size: `[height, width]` that images are resized to.
      max_level: coarsest level; padded sizes are multiples of `2**max_level`.
      **kwargs: `dtype` of the images, and the fields of `configs.detectors.DenseParserConfig`.
    """
    super().__init__(list(output_size), min_level=None, max_level=max_level, num_scales=None,
                     aspect_ratios=None, anchor_size=None, **kwargs)

  def _parse_train_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Labels]:
    image, labels = self._parse(super()._parse_train_data, data, self._skip_crowd_during_training)
    return image, labels

  def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Labels]:
    image, labels = self._parse(super()._parse_eval_data, data, True)
    return image, labels

  def _parse(self, parse: Callable[..., tuple[tf.Tensor, Labels]],
             data: Mapping[str, tf.Tensor], skip_crowd: bool) -> tuple[tf.Tensor, Labels]:
    """Parses an example with boxes in the place of anchors.

    Args:
      parse: Model Garden's method for training or for evaluation.
      data: an example from Model Garden's decoder.
      skip_crowd: whether crowds are no boxes.

    Returns:
      The image, float `[height, width, 3]`, and labels: `classes`, int32 `[instances]`, and
      `boxes`, float32 `[instances, 4]` in pixels of the network's input, both padded with -1;
      Model Garden's `image_info`; and in evaluation Model Garden's `groundtruths`.
    """
    is_crowd = data['groundtruth_is_crowd']
    data = _with_crowd(data, is_crowd if skip_crowd else tf.zeros_like(is_crowd))
    labeler = _BoxLabeler(self._max_num_instances)
    image, labels = parse(data, labeler, labeler.anchors)
    kept = {'classes': labels['cls_targets'], 'boxes': labels['box_targets'],
            'image_info': labels['image_info']}
    if 'groundtruths' in labels:
      kept['groundtruths'] = {name: value for name, value in labels['groundtruths'].items()
                              if name != 'attributes'}
    return image, kept


class _AnchorLabeler(anchor.AnchorLabeler):
  """Model Garden's labeler of anchors, which also keeps the boxes.

  Attributes:
    boxes: float32 `[instances, 4]` in pixels of the network's input, without crowds and padded
      with -1; None before `label_anchors`.
  """

  def __init__(self, max_num_instances: int, **kwargs):
    """Initializes the labeler.

    Args:
      max_num_instances: number of boxes after padding.
      **kwargs: arguments of Model Garden's labeler.
    """
    super().__init__(**kwargs)
    self._box_labeler = _BoxLabeler(max_num_instances)
    self.boxes: tf.Tensor | None = None

  def label_anchors(self, anchor_boxes, boxes, classes, attributes) -> tuple[Any, ...]:
    """Labels anchors as Model Garden does, which does not know the attribute `is_crowd`."""
    _, self.boxes, *_ = self._box_labeler.label_anchors(None, boxes, classes, attributes)
    others = {name: value for name, value in attributes.items() if name != 'is_crowd'}
    return super().label_anchors(anchor_boxes, boxes, classes, others)


class AnchorParser(retinanet_input.Parser):
  """Model Garden's RetinaNet parser, with the `boxes` of `Parser` as one more label."""

  def _parse_train_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Labels]:
    return self._parse(super()._parse_train_data, data)

  def _parse_eval_data(self, data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Labels]:
    return self._parse(super()._parse_eval_data, data)

  def _parse(self, parse: Callable[..., tuple[tf.Tensor, Labels]],
             data: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, Labels]:
    """Parses an example, and adds its boxes to the labels of Model Garden's method `parse`."""
    labeler = _AnchorLabeler(
        self._max_num_instances, match_threshold=self._match_threshold,
        unmatched_threshold=self._unmatched_threshold, box_coder_weights=self._box_coder_weights)
    image, labels = parse(_with_crowd(data, data['groundtruth_is_crowd']), labeler)
    if 'groundtruths' in labels and not data.get('groundtruth_attributes'):
      del labels['groundtruths']['attributes']
    return image, {**labels, 'boxes': labeler.boxes}


def options(params: Any) -> dict[str, Any]:
  """Returns the fields of a parser's config as arguments of the parser.

  Model Garden's tasks do not read `num_channels` and `aug_policy` either.

  Args:
    params: `parser` of a data config.
  """
  return {name: getattr(params, name) for name in params.as_dict()
          if name not in ('num_channels', 'aug_policy')}


def _decoder(params: Any, include_mask: bool) -> Any:
  """Returns the decoder of examples that a data config describes."""
  if params.tfds_name:
    return tfds_factory.get_detection_decoder(params.tfds_name)
  config = params.decoder.get()
  options = {name: getattr(config, name)
             for name in ('regenerate_source_id', 'mask_binarize_threshold')}
  if params.decoder.type == 'simple_decoder':
    return tf_example_decoder.TfExampleDecoder(include_mask, **options)
  return tf_example_label_map_decoder.TfExampleDecoderLabelMap(
      config.label_map, include_mask=include_mask, **options)


def read(params: Any, parser: Any, context: tf.distribute.InputContext | None = None,
         include_mask: bool = False,
         batch_fn: Callable[..., tf.data.Dataset] | None = None) -> tf.data.Dataset:
  """Reads batches.

  Args:
    params: data config of a detector of Model Garden, or a `DenseDataConfig`.
    parser: turns an example into an image and its labels.
    context: says which part of the data this host reads; None for all.
    include_mask: whether masks are decoded.
    batch_fn: Model Garden's `transform_and_batch_fn`; None: batches of images as they come.

  Returns:
    A dataset of images `[batch, height, width, 3]` and labels, as the parser gives them; in
    training with `IMAGE_HASH`.
  """
  parse = parser.parse_fn(params.is_training)

  def parse_and_name(data):
    image, labels = parse(data)
    if params.is_training and 'source_id' in data:
      labels = {**labels, IMAGE_HASH: image_hash(tf.strings.as_string(data['source_id']))}
    return image, labels

  reader = input_reader_factory.input_reader_generator(
      params, dataset_fn=dataset_fn.pick_dataset_fn(params.file_type),
      decoder_fn=_decoder(params, include_mask).decode,
      combine_fn=input_reader.create_combine_fn(params), parser_fn=parse_and_name,
      transform_and_batch_fn=batch_fn)
  return reader.read(input_context=context)
