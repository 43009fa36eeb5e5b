"""The encoders that `model.encoder.type` can name; a new one is imported here, so that it is known."""

from kdasr.models.encoders import conformer, fast_conformer, zipformer2  # noqa: F401
