"""Ids of the pieces that spell nothing, the same in every tokenizer of this toolkit and in sherpa-onnx."""

BLANK_ID = 0
SOS_EOS_ID = 1
UNK_ID = 2
"""`<unk>`. Like sherpa's decoders, the searches treat it as blank."""
NO_PIECE = -1
"""An id that embeds to zero: what stands before the blank that starts every utterance."""
