"""The Zipformer2 encoder (Yao et al. 2024, "Zipformer: a faster and better encoder for ASR"), as in icefall.

`config.py` has the options, `encoder.py` the contract, `front_end.py` the convolutions, `stack.py` the layers
of one frame rate, `layer.py` one layer and `attention.py` and `convolution.py` its parts, `frames.py` what a
call says about the frames of each rate, `random_parts.py` what training leaves out by chance.
"""

from kdasr.models.encoders.zipformer2.config import Zipformer2Config

__all__ = ["Zipformer2Config"]
