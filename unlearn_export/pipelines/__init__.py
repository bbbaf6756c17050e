"""Text-to-video pipelines with an edited encoder in them: load, seat, check."""
