"""Labelers, one file each; `kdasr.labeling.base` imports them all."""
