"""Image files: finding, naming and reading them."""
