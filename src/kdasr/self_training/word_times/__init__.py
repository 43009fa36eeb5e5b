"""Word times by a trained model's own alignment, for corpora that have none."""
