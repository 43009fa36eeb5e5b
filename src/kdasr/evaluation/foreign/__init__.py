"""Results of other toolkits, measured as our own: a file per format.

A further format is a function from a file to hypotheses under `@register_format(name)`, imported here.
"""

from kdasr.evaluation.foreign import ctm, icefall, kdasr, nemo, sherpa

__all__ = ["ctm", "icefall", "kdasr", "nemo", "sherpa"]
