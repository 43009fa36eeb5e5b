"""A corpus of synthetic speech in LibriSpeech's own layout.

`plan` decides who says what, `grammar` and `vocabulary` write the sentences, `espeak` speaks them,
`acoustics` puts the speech into rooms and noise, `writer` lays out the files, and `corpus` runs it all on
many processes.
"""
