"""TFRecords: writing, reading and checking them."""
