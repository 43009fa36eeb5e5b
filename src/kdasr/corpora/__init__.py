"""The corpora that can be prepared, one file each: a file in this folder needs no other mention."""
