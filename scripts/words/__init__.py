"""Makes ``unlearn_export/words/nouns.tsv`` out of WordNet."""
