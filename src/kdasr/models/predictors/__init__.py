"""The predictors that `model.predictor.type` can name; a new one is imported here, so that it is known."""

from kdasr.models.predictors import lstm, stateless  # noqa: F401
