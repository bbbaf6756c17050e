"""The families of text encoders, and how the pipelines read them."""
