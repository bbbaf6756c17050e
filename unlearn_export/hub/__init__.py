"""Publish an artifact folder to the Hugging Face Hub, as one commit."""

from .publish import Pushed, push

__all__ = ["Pushed", "push"]
