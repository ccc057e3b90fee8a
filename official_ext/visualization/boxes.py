"""Draws boxes, masks and labels on images, and grids of images, with NumPy and Pillow alone."""
from collections.abc import Sequence
import colorsys

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MASK_OPACITY = 0.4
_TITLE_HEIGHT = 22
_MARGIN = 6


def class_color(class_id: int) -> Color:
  """Returns a bright color; it is always the same for a class, and neighbors differ.

  Args:
    class_id: any integer.

  Returns:
    Red, green and blue, each from 0 to 255.
  """
  golden_ratio = 0.618034  # Spreads any number of hues evenly.
  hue = (0.5 + class_id * golden_ratio) % 1.0
  red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 + 0.25 * (class_id % 2), 1.0)
  return round(255 * red), round(255 * green), round(255 * blue)


def enlarge(image: np.ndarray, min_side: int) -> tuple[np.ndarray, int]:
  """Enlarges a small image by a whole factor, so that drawn text stays legible.

  Args:
    image: uint8 `[height, width, 3]`.
    min_side: least length of the shorter side of the result, in pixels.

  Returns:
    The image, and the factor by which its boxes must be multiplied.
  """
  factor = max(1, -(-min_side // min(image.shape[:2])))
  return fit(image, factor * max(image.shape[:2]))[0] if factor > 1 else image, factor


def fit(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
  """Scales an image before boxes are drawn on it, so that text and lines stay legible.

  Args:
    image: uint8 `[height, width, 3]`.
    side: length of the longer side of the result, in pixels.

  Returns:
    The image, and the factor by which its boxes must be multiplied.
  """
  height, width = image.shape[:2]
  scale = side / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
  return np.asarray(Image.fromarray(image).resize(size, method)), scale


def _text_color(background: Color) -> Color:
  luminance = np.dot(background, (0.299, 0.587, 0.114))
  return (0, 0, 0) if luminance > 110 else (255, 255, 255)


def _draw_label(draw: ImageDraw.ImageDraw, text: str, box: Sequence[float], color: Color,
                font: Font, size: tuple[int, int],
                taken: list[tuple[float, ...]]) -> None:
  """Writes `text` above the box, or inside it if there is no room above.

  A label that would cover one of the labels `taken` is left out: the color of the box says the
  same.
  """
  left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
  width, height = right - left + 4, bottom - top + 4
  x = max(min(box[1], size[0] - width), 0)
  y = max(min(box[0] - height if box[0] >= height else box[0], size[1] - height), 0)
  if any(x < x2 and x1 < x + width and y < y2 and y1 < y + height for x1, y1, x2, y2 in taken):
    return
  taken.append((x, y, x + width, y + height))
  draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
  draw.text((x + 2 - left, y + 2 - top), text, fill=_text_color(color), font=font)


def _blend_masks(image: np.ndarray, masks: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
  blended = image.astype(np.float32)
  for mask, color in zip(masks, colors):
    selected = np.asarray(mask, bool)
    blended[selected] += _MASK_OPACITY * (np.asarray(color, np.float32) - blended[selected])
  return np.round(blended).astype(np.uint8)


def draw_boxes(image: np.ndarray,
               boxes: np.ndarray,
               labels: Sequence[str],
               scores: Sequence[float] | None = None,
               masks: np.ndarray | None = None,
               colors: Sequence[Color] | None = None,
               font_size: int = 12,
               line_width: int = 2) -> np.ndarray:
  """Draws boxes with their labels, and masks if there are any.

  Args:
    image: uint8 `[height, width, 3]`; it is not changed.
    boxes: `[num_boxes, 4]`, `[y1, x1, y2, x2]` in pixels of `image`.
    labels: a text for each box; an empty text is not drawn, nor one that would cover another.
    scores: one per box, in [0, 1], written after the labels as percent; None: not written.
    masks: `[num_boxes, height, width]`, nonzero inside the object; None: not drawn.
    colors: red, green and blue for each box; None: one color for each different label.
    font_size: height of the text in pixels.
    line_width: width of the boxes' lines, in pixels.

  Returns:
    A new uint8 image of the same size.

  Raises:
    ValueError: `image` is not uint8 `[height, width, 3]`, or `boxes`, `labels`, `scores`,
      `masks` and `colors` do not have the same length.
  """
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'image must be uint8 [height, width, 3]; got {image.dtype} {image.shape}.')
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  for name, values in dict(labels=labels, scores=scores, masks=masks, colors=colors).items():
    if values is not None and len(values) != len(boxes):
      raise ValueError(f'{name} must have one entry for each of the {len(boxes)} boxes; '
                       f'got {len(values)}.')
  if colors is None:
    order = {label: number for number, label in enumerate(sorted(set(labels)))}
    colors = [class_color(order[label]) for label in labels]
  if masks is not None and len(boxes):
    image = _blend_masks(image, masks, colors)
  picture = Image.fromarray(image)
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(size=font_size)
  # All boxes come before all labels, so that no line runs through a text.
  for (y1, x1, y2, x2), color in zip(boxes, colors):
    right, bottom = max(x2 - 1, x1), max(y2 - 1, y1)  # A box ends before pixel x2.
    draw.rectangle((x1, y1, right, bottom), outline=color, width=line_width)
  taken: list[tuple[float, ...]] = []
  for number, (box, label) in enumerate(zip(boxes, labels)):
    text = label if scores is None else f'{label} {100 * scores[number]:.0f}'.strip()
    if text:
      _draw_label(draw, text, box.tolist(), colors[number], font, picture.size, taken)
  return np.asarray(picture)


def _fit_text(text: str, width: int, font: Font) -> str:
  """Cuts the end of `text` so that it is at most `width` pixels wide."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '...') > width:
    text = text[:-1]
  return text + '...'


def draw_grid(images: Sequence[np.ndarray],
              titles: Sequence[str] | None = None,
              columns: int | None = None) -> np.ndarray:
  """Lays images out in rows and columns on white; every image keeps its size.

  Args:
    images: uint8 `[height, width, 3]`; sizes may differ.
    titles: a line above each image, cut if it is wider than a cell; None: no titles.
    columns: number of images in a row; None: about as many columns as rows.

  Returns:
    One uint8 `[height, width, 3]` image.

  Raises:
    ValueError: there is no image, or `titles` has another length than `images`.
  """
  if not len(images):
    raise ValueError('images is empty: a grid needs at least one image.')
  if titles is not None and len(titles) != len(images):
    raise ValueError(f'titles must have {len(images)} entries, as images; got {len(titles)}.')
  pictures = [Image.fromarray(np.asarray(image)) for image in images]
  columns = min(columns or int(np.ceil(np.sqrt(len(pictures)))), len(pictures))
  title_height = _TITLE_HEIGHT if titles is not None else 0
  width = max(picture.width for picture in pictures) + _MARGIN
  rows = [pictures[start:start + columns] for start in range(0, len(pictures), columns)]
  heights = [max(picture.height for picture in row) + title_height + _MARGIN for row in rows]
  sheet = Image.new('RGB', (columns * width + _MARGIN, sum(heights) + _MARGIN), 'white')
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(size=14)
  for number, picture in enumerate(pictures):
    row, column = divmod(number, columns)
    x, y = _MARGIN + column * width, _MARGIN + sum(heights[:row])
    if titles is not None:
      draw.text((x, y), _fit_text(titles[number], width - _MARGIN, font), 'black', font)
    sheet.paste(picture, (x, y + title_height))
  return np.asarray(sheet)
