"""The templates of model cards; ``unlearn_export.card`` fills them in."""
