#!/usr/bin/env bash
# The rows of conf/results.yaml on a GPU: 20 h of synthetic speech with 1,500 words, models of about 30 M.
#
#   tools/results_on_gpu.sh [options of egs/librispeech/run_results.sh]
#
# Needs an environment with kdasr in it and a CUDA device. Without a network, fetch the wheels of setup.cfg on another
# machine (`pip download -d wheels .`) and install them there (`pip install --no-index --find-links wheels .`).
# A finished job is skipped and an interrupted one resumes, so the same command goes on in slices of any length; what
# lasts is in data/base and exp/results-base.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "results_on_gpu.sh: error: no CUDA device")'

exec "$root/egs/librispeech/run_results.sh" --size base --conf "$root/egs/librispeech/conf/results.yaml" \
  --data "$root/data/base" --exp "$root/exp/results-base" --jobs "${JOBS:-4}" \
  --override data.max_duration=300.0 --override data.num_workers=2 \
  --override model.encoder.num_layers=12 --override model.encoder.dim=320 --override model.encoder.num_heads=5 \
  --override model.encoder.ffn_dim=1280 --override model.encoder.subsampling_channels=64 \
  --override model.encoder.dropout=0.1 --override model.predictor.dim=320 --override model.joiner_dim=320 \
  --override training.accelerator=cuda --override training.precision=bf16-mixed \
  --override training.optim.learning_rate=1.0e-3 "$@"
