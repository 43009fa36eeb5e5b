#!/usr/bin/env bash
# Everything that needs a GPU, in one command of at most 25 minutes:
#
#   tools/gpu_check.sh [OUT]        (default: exp/gpu_check)
#
#   1 kernels   Triton's kernels against float64, and their times (tools/bench_gpu.py)
#   2 epoch     one epoch of conf/base.yaml's teacher on 20 h of synthetic speech, bf16
#   3 nccl      the same for 20 steps in two processes, where there are two devices
#   4 memory    20 steps of conf/librispeech.yaml's model of 76 M at batches of 600 s
#
# Needs an environment with kdasr in it and a CUDA device. A finished step is not run again, so the same command goes on
# after an interruption; STEPS="1 3" runs some. Logs and results lie in OUT; at the end docs/performance.md gets the
# table of what was measured.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
out=${1:-exp/gpu_check}
data=$out/data
for number in ${STEPS:-1 2 3 4}; do
  if [[ ! $number =~ ^[1-4]$ ]]; then
    echo "gpu_check.sh: error: STEPS '$STEPS': expected some of 1 2 3 4, such as STEPS=\"1 3\"" >&2
    exit 1
  fi
done
mkdir -p "$out"
export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
python - <<'PY'
import sys, torch
sys.exit(0 if torch.cuda.is_available() else "gpu_check.sh: error: no CUDA device")
PY
devices=$(python -c 'import torch; print(torch.cuda.device_count())')

# step NUMBERS NAME COMMAND...: once, if one of the numbers is wanted; the time goes to OUT/NAME.seconds
step() {
  local name=$2 number wanted=""
  for number in $1; do
    if [[ " ${STEPS:-1 2 3 4} " == *" $number "* ]]; then wanted=yes; fi
  done
  if [[ -z $wanted ]]; then return; fi
  if [[ -f $out/$name.seconds ]]; then
    echo "$name: done before"
    return
  fi
  echo "$name: $(date +%T), log: $out/$name.log"
  local started=$SECONDS
  if ! "${@:3}" >"$out/$name.log" 2>&1; then
    tail -n 20 "$out/$name.log" >&2
    echo "gpu_check.sh: error: $name failed; log: $out/$name.log" >&2
    exit 1
  fi
  echo $((SECONDS - started)) >"$out/$name.seconds"
}

# Where a step runs, a command that fails ends nothing: hence the &&.
corpus() {
  kdasr corpus synthetic --size base --out "$data/corpus" &&
  kdasr prepare --corpus-dir "$data/corpus/LibriSpeech" --alignments-dir "$data/corpus/LibriSpeech-Alignments" \
    --config egs/librispeech/conf/base.yaml --out "$data" --jobs "$(nproc)" \
    --parts "train-clean-100 train-clean-360 dev-clean dev-other" &&
  kdasr tokens --data "$data" --config egs/librispeech/conf/base.yaml
}

# train NAME CONF [overrides]: a teacher on that speech, with the memory that it took
train() {
  local name=$1 conf=$2
  "${launcher[@]}" tools/gpu_train.py "$out/$name.json" train --config "egs/librispeech/conf/$conf.yaml" \
    --system teacher --exp "$out/$name" --override "data.dir=$data" \
    --override "data.train_parts=[train-clean-100,train-clean-360]" --override "data.dev_parts=[dev-clean]" \
    --override training.accelerator=cuda --override training.precision=bf16-mixed "${@:3}"
}

step 1 kernels python tools/bench_gpu.py --out "$out/kernels.json"
step "2 3 4" corpus corpus
launcher=(python)
step 2 epoch train epoch base --override stages.0.num_steps=null --override stages.0.num_epochs=1 \
  --override data.num_workers=4
step 4 memory train memory librispeech --override stages.0.num_epochs=null --override stages.0.num_steps=20 \
  --override data.on_the_fly=false --override data.noise.probability=0 --override data.reverb.probability=0 \
  --override data.max_duration=600 --override data.vocab_size=250 --override training.validate_hours=null \
  --override training.validate_every=20 --override training.optim.accumulate=1
if ((devices > 1)); then
  launcher=(torchrun --standalone --nproc-per-node 2)
  step 3 nccl train nccl base --override stages.0.num_steps=20 --override training.validate_every=20
fi
python tools/gpu_table.py "$out" docs/performance.md
