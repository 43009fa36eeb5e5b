#!/usr/bin/env bash
# Teacher, streaming baselines and two-stage student, from audio to report.
#
#   egs/librispeech/run.sh [--corpus synthetic|librispeech|cuts] [--size NAME] [--stage N] [--stop-stage M]
#
# Stages
#   0 corpus (synthesize or download)   5 student, stage one (hidden states)
#   1 manifests and features            6 student, stage two (output distributions)
#   2 word pieces                       7 average checkpoints, calibrate confidence, offline decoding
#   3 teacher, averaged                 8 streaming decoding with latency
#   4 streaming baselines               9 student exported for sherpa-onnx, which decodes the test parts
#                                      10 test parts joined into long streams, with and without endpoints
#                                      11 report
#
# Options
#   --corpus NAME         synthetic (default), librispeech, or cuts
#   --size NAME           which conf/NAME.yaml (default: librispeech); for synthetic speech (default: demo) also how much
#   --conf FILE           another configuration than conf/<size>.yaml
#   --corpus-dir DIR      librispeech: the folder that holds the parts; stage 0 downloads there when DIR, named LibriSpeech, is missing
#   --alignments-dir DIR  librispeech: word alignments (LibriSpeech-Alignments); without them latency starts at an energy onset
#   --cuts "P=FILE ..."   cuts: Lhotse manifests or Shar folders of parts named train..., dev... and test...
#                         (docs/corpora.md); may be repeated, once for each path with spaces
#   --parts "A B ..."     synthetic, librispeech: which parts to use, any subset (train-*, dev-*, test-*)
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/<name>, exp/<name>)
#   --align-from EXP      stage 2: word times of all parts by this trained system, for corpora without alignments
#   --vocab-size N        word pieces, instead of the number in the configuration
#   --systems "A B ..."   systems of the configuration to train (default: the four above; unified: see run_chunks.sh)
#   --all-contexts        stage 8: also under every context that a system was trained with, such as other chunks
#   --long-form "..."     options of kdasr decode --long-form in stage 10 (default: --gap-noise quiet --max-utterances 80)
#   --seed N              seed of the corpus and of training (default: 1)
#   --jobs J              processes side by side (default: 1)
#   --gpus N              GPUs of this machine; each of the J jobs side by side has N/J of them, and shares its training and
#                         its decoding out among as many processes (docs/many_gpus.md)
#   --gain-db "A B ..."   stage 8: also the error rates of recordings that are so many dB louder, such as "-30 -20 -10 10"
#   --override K=V        further option of the configuration; may be repeated
#   --dry-run             print the commands of the stages instead of running them
#
# A finished stage is skipped; an interrupted one resumes. Remove its output to run it again. Stages 3 to 11 are jobs:
# each runs as soon as those that it needs have finished, and with --jobs 2 or more writes to <exp>/log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/options.sh
. "$here/local/options.sh"
# shellcheck source=local/job_list.sh
. "$here/local/job_list.sh"

corpus=synthetic size="" conf="" corpus_dir="" alignments_dir="" parts="" data="" exp="" vocab_size="" align_from=""
systems="teacher streaming streaming-init two-stage"
seed=1 jobs=1 gpus=0 stage=0 stop_stage=11 gain_db=""
long_form="--gap-noise quiet --max-utterances 80"
overrides=() all_contexts=() dry_run=() cuts=() cuts_places=()
takes --corpus --size --conf --corpus-dir --alignments-dir --parts --data --exp --vocab-size --align-from --systems \
  --long-form --gain-db --seed --jobs --gpus --stage --stop-stage
collects overrides --override
collects cuts --cuts
flags all_contexts --all-contexts
flags dry_run --dry-run
parse_options "$@"
whole_numbers_and_jobs stage stop_stage seed gpus
has_stages 11

# The parts that begin with a word.
select_parts() {
  local part found=()
  for part in $parts; do
    if [[ $part == "$1"* ]]; then found+=("$part"); fi
  done
  echo "${found[*]-}"
}

# only_for CORPORA OPTION...: an option that was given is one of these corpora.
only_for() {
  local option name
  for option in "${@:2}"; do
    name=${option#--}
    name=${name//-/_}
    [[ -z ${!name-} || " $1 " == *" $corpus "* ]] || die "$option is for --corpus ${1/ / or }, not $corpus"
  done
}
only_for librispeech --corpus-dir --alignments-dir
only_for cuts --cuts
only_for "synthetic librispeech" --parts

case $corpus in
  synthetic)
    size=${size:-demo}
    name=$size
    parts=${parts:-"train-clean-100 train-clean-360 dev-clean dev-other test-clean test-other"} ;;
  librispeech)
    size=${size:-librispeech}
    name=librispeech
    [[ $size == librispeech ]] || name=librispeech-$size
    if [[ $size == mini ]]; then parts=${parts:-"train-clean-5 dev-clean-2 test-clean"}; fi
    parts=${parts:-"train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other"} ;;
  cuts)
    add_places cuts_places "${cuts[@]}"
    ((${#cuts_places[@]})) || die "--corpus cuts: give --cuts \"train=FILE_OR_FOLDER dev=FILE_OR_FOLDER ...\""
    size=${size:-librispeech}
    name=cuts-$size parts=""
    for place in "${cuts_places[@]}"; do
      if [[ " $parts " != *" ${place%%=*} "* ]]; then parts+=" ${place%%=*}"; fi
    done ;;
  *) die "--corpus $corpus: expected synthetic, librispeech or cuts" ;;
esac
conf=${conf:-$here/conf/$size.yaml}
data=${data:-$root/data/$name}
exp=${exp:-$root/exp/$name}
[[ -f $conf ]] || die "no configuration $conf; there are: $(cd "$here/conf" && echo *.yaml)"
command -v kdasr >/dev/null || die "the kdasr command is not on PATH; run 'make setup' and 'source .venv/bin/activate'"

if [[ $corpus == synthetic ]]; then
  corpus_dir=$data/corpus/LibriSpeech
  alignments_dir=$data/corpus/LibriSpeech-Alignments
else
  downloads=$data/corpus/LibriSpeech
  # A folder that was misspelled is not one to download to.
  if [[ $corpus == librispeech && -n $corpus_dir && $corpus_dir != "$downloads" ]] && ((stage == 0)); then
    [[ -d $corpus_dir || ( $(basename "$corpus_dir") == LibriSpeech && -d $(dirname "$corpus_dir") ) ]] ||
      die "--corpus-dir $corpus_dir: no such folder; to download there, name it LibriSpeech, in a folder that exists"
  fi
  corpus_dir=${corpus_dir:-$downloads}
fi
train_parts=$(select_parts train) dev_parts=$(select_parts dev) test_parts=$(select_parts test)
if [[ $corpus == cuts ]]; then test_parts=${test_parts:-$dev_parts}; fi
if [[ $corpus == cuts ]]; then given="--cuts ${cuts_places[*]}"; else given="--parts $parts"; fi
[[ -n $train_parts ]] || die "$given: no training part (train...)"
[[ -n $dev_parts ]] || die "$given: no dev part (dev...), which chooses the checkpoint"
[[ -n $test_parts ]] || die "$given: no test part (test...)"

# One thread each when trainings run side by side; more threads than cores would only slow both down.
if ((jobs > 1)); then export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi

# In front of what several processes can share out, and where things are computed. `kdasr jobs` says which GPUs.
launcher=() device=() jobs_options=(--exp "$exp" --jobs "$jobs")
if ((gpus)); then
  jobs_options+=(--gpus "$gpus")
  device=(--device cuda)
  overrides=(--override training.accelerator=cuda "${overrides[@]}")
  if ((gpus / jobs > 1)); then
    launcher=(torchrun --standalone --nproc-per-node "$((gpus / jobs))" --no-python)
  fi
  # No jobs: are there so many GPUs? Before anything is computed.
  ((${#dry_run[@]})) || kdasr jobs "${jobs_options[@]}" </dev/null
fi

due() { ((stage <= $1 && $1 <= stop_stage)); }
wants() { [[ " $systems " == *" $1 "* ]]; }

# train SYSTEM [further options of kdasr train]: a command of the job before it
train() {
  run "${launcher[@]}" kdasr train --config "$conf" --system "$1" --exp "$exp/$1" \
    --override "data.dir=$data" --override "seed=$seed" \
    --override "data.train_parts=[${train_parts// /,}]" --override "data.dev_parts=[${dev_parts// /,}]" \
    "${overrides[@]}" "${@:2}"
}

# Stages 0 to 2 run here, one after another: each uses all processes itself.
if due 0; then
  say "Stage 0: corpus"
  if [[ $corpus == synthetic ]]; then
    now kdasr corpus synthetic --size "$size" --out "$data/corpus" --seed "$seed" --jobs "$jobs"
  elif [[ $corpus == cuts ]]; then
    echo "using ${cuts_places[*]}"
  elif [[ -d $corpus_dir && ! -e $corpus_dir/.downloading ]]; then
    echo "using $corpus_dir"
  else
    # The mark stays where the download is interrupted: a part may be there by half.
    now mkdir -p "$corpus_dir"
    now touch "$corpus_dir/.downloading"
    now kdasr corpus librispeech --out "$(dirname "$corpus_dir")" --parts "$parts"
    now rm "$corpus_dir/.downloading"
  fi
fi
# Downloaded alignments are unpacked into the corpus itself; other copies lie beside it.
if [[ -z $alignments_dir ]]; then
  beside=$(dirname "$corpus_dir")/LibriSpeech-Alignments
  if [[ -d $beside ]]; then
    alignments_dir=$beside
  elif [[ -n $(find -L "$corpus_dir" -name '*.alignment.txt' -print -quit 2>/dev/null) ]]; then
    alignments_dir=$corpus_dir
  fi
fi

if due 1; then
  say "Stage 1: manifests and features"
  corpus_options=(--corpus-dir "$corpus_dir" ${alignments_dir:+--alignments-dir "$alignments_dir"} --parts "$parts")
  if [[ $corpus == cuts ]]; then
    corpus_options=()
    for place in "${cuts_places[@]}"; do corpus_options+=(--cuts "$place"); done
  fi
  now kdasr prepare "${corpus_options[@]}" --config "$conf" "${overrides[@]}" --out "$data" --jobs "$jobs"
fi

if due 2; then
  say "Stage 2: word pieces"
  now kdasr tokens --data "$data" --config "$conf" "${overrides[@]}" ${vocab_size:+--vocab-size "$vocab_size"}
  # Utterances that have word times keep them.
  if [[ -n $align_from ]]; then now kdasr align "$align_from" --data "$data" --parts "$parts"; fi
fi

# Students start from and learn from the average of the teacher's last checkpoints.
if due 3 && wants teacher; then
  stage "Stage 3: teacher"
  job train-teacher
  train teacher
  run kdasr average "$exp/teacher"
fi

if due 4; then
  stage "Stage 4: streaming baselines"
  for system in $systems; do
    case $system in
      teacher | two-stage) continue ;;
      streaming) job train-streaming ;;
      *) job "train-$system" train-teacher ;;
    esac
    train "$system"
  done
fi

if due 5 && wants two-stage; then
  stage "Stage 5: student, stage one (hidden states)"
  job train-two-stage-hidden train-teacher
  train two-stage --until-stage hidden
fi

if due 6 && wants two-stage; then
  stage "Stage 6: student, stage two (output distributions)"
  job train-two-stage train-two-stage-hidden
  train two-stage
fi

# The confidence of words is calibrated before anything is decoded that tells it.
if due 7; then
  stage "Stage 7: averaged checkpoints, calibrated on dev, offline decoding"
  for system in $systems; do
    job "decode-offline-$system" "train-$system"
    if [[ $system != teacher ]]; then run kdasr average "$exp/$system"; fi
    run kdasr calibrate "$exp/$system" --data "$data" --parts "$dev_parts" "${device[@]}"
    run "${launcher[@]}" kdasr decode "$exp/$system" --data "$data" --parts "$test_parts" --mode offline "${device[@]}"
  done
fi

if due 8; then
  stage "Stage 8: streaming decoding"
  for system in $systems; do
    job "decode-streaming-$system" "decode-offline-$system"
    run "${launcher[@]}" kdasr decode "$exp/$system" --data "$data" --parts "$test_parts" --mode streaming "${device[@]}" \
      ${gain_db:+--gain-db "$gain_db"} "${all_contexts[@]}"
  done
fi

# Does sherpa-onnx hear in every test utterance what the PyTorch student hears? Asked once of an export and a test part;
# if not, the recipe goes on to the report and fails in the end.
checks=()
for part in $test_parts; do checks+=("check-export-$part"); done
if due 9 && wants two-stage; then
  stage "Stage 9: export for sherpa-onnx"
  bundle=$exp/two-stage/export
  job export decode-offline-two-stage
  run kdasr export "$exp/two-stage" --out "$bundle" --int8
  for part in $test_parts; do
    manifest=$data/cuts_$part.jsonl.gz
    job "check-export-$part" export
    run "$here/local/once.sh" "$exp/log/check-export-$part.txt" "$bundle/manifest.json" "$manifest" -- \
      kdasr export --check "$bundle" "$manifest" --against "$exp/two-stage" --long-form --gaps 1 --gap-noise quiet
  done
fi

# Systems with a full context hear a stream at its end: kdasr says so and decodes nothing.
if due 10; then
  stage "Stage 10: long streams"
  for system in $systems; do
    job "decode-long-form-$system" "decode-offline-$system"
    # shellcheck disable=SC2086 # several options in one string
    run "${launcher[@]}" kdasr decode "$exp/$system" --data "$data" --parts "$test_parts" --long-form $long_form "${device[@]}"
  done
fi

if due 11; then
  stage "Stage 11: report"
  decoded=()
  for system in $systems; do decoded+=("decode-streaming-$system" "decode-long-form-$system"); done
  job report "${decoded[@]}" "|" "${checks[@]}"
  run kdasr report "$exp" --data "$data"
fi

if ((${#dry_run[@]})); then
  printf '\n%s' "$job_list"
elif [[ -n $listed ]]; then
  exec kdasr jobs "${jobs_options[@]}" "${checks[@]/#/--show=}" --show report <<<"$job_list"
fi
