"""When feature frames are: the unit in which audio is counted between samples and encoder frames."""

FRAME_SHIFT_SECONDS = 0.01
FRAME_LENGTH_SECONDS = 0.025
KALDI, NEMO = KINDS = ("kaldi", "nemo")
"""What feature frames are: sherpa's filterbank; or NeMo's, for teachers that were trained on it."""
