"""The parts of `tools/torture.py`: mutated files, killed commands, full disks."""
