#!/usr/bin/env bash
# Teacher, streaming baselines and two-stage student, from audio to report.
#
#   egs/librispeech/run.sh [--corpus synthetic|librispeech] [--size tiny|demo|base|large] [--stage N] [--stop-stage M]
#
# Stages
#   0 corpus (synthesise or download)   5 student, stage one (hidden states)
#   1 manifests and features            6 student, stage two (output distributions)
#   2 word pieces                       7 average checkpoints, calibrate confidence, offline decoding
#   3 teacher, averaged                 8 streaming decoding with latency
#   4 streaming baselines               9 student exported for sherpa-onnx, which decodes the test parts
#                                      10 test parts joined into long streams, with and without endpoints
#                                      11 report
#
# Options
#   --corpus NAME         synthetic (default), librispeech, or cuts
#   --size NAME           which conf/NAME.yaml, and for synthetic speech how much (default: demo)
#   --conf FILE           another configuration than conf/<size>.yaml
#   --corpus-dir DIR      librispeech: the folder that holds the parts; stage 0 downloads there when it is missing
#   --alignments-dir DIR  librispeech: word alignments (LibriSpeech-Alignments); without them latency starts at an energy onset
#   --cuts "P=FILE ..."   cuts: Lhotse manifests or Shar folders of parts named train..., dev... and test... (docs/corpora.md)
#   --parts "A B ..."     librispeech: which parts to use, any subset (train-*, dev-*, test-*)
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/<name>, exp/<name>)
#   --vocab-size N        word pieces, instead of the number in the configuration
#   --systems "A B ..."   systems of the configuration to train (default: the four above; unified: see run_chunks.sh)
#   --long-form "..."     options of kdasr decode --long-form in stage 10 (default: --gap-noise quiet --max-utterances 80)
#   --seed N              seed of the corpus and of training (default: 1)
#   --jobs J              processes side by side (default: 1)
#   --gain-db "A B ..."   stage 8: also the error rates of recordings that are so many dB louder, such as "-30 -20 -10 10"
#   --override K=V        further option of the configuration; may be repeated
#
# A finished stage is skipped; an interrupted one resumes. Remove its output to run it again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/parse_options.sh
. "$here/local/parse_options.sh"
# shellcheck source=local/jobs.sh
. "$here/local/jobs.sh"

corpus=synthetic size="" conf="" corpus_dir="" alignments_dir="" parts="" cuts="" data="" exp="" vocab_size=""
systems="teacher streaming streaming-init two-stage"
seed=1 jobs=1 stage=0 stop_stage=11 gain_db=""
long_form="--gap-noise quiet --max-utterances 80"
overrides=() differs=0
parse_options "$@"

case $corpus in
  synthetic)
    size=${size:-demo}
    name=$size
    parts=${parts:-"train-clean-100 train-clean-360 dev-clean dev-other test-clean test-other"} ;;
  librispeech)
    size=${size:-librispeech}
    name=librispeech
    [[ $size == librispeech ]] || name=librispeech-$size
    parts=${parts:-"train-clean-100 train-clean-360 train-other-500 dev-clean dev-other test-clean test-other"} ;;
  cuts)
    [[ -n $cuts ]] || die "--corpus cuts: give --cuts \"train=FILE_OR_FOLDER dev=FILE_OR_FOLDER ...\""
    size=${size:-librispeech}
    name=cuts-$size parts=""
    for place in $cuts; do
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
  corpus_dir=${corpus_dir:-$data/corpus/LibriSpeech}
fi
train_parts=$(select_parts train) dev_parts=$(select_parts dev) test_parts=$(select_parts test)
if [[ $corpus == cuts ]]; then test_parts=${test_parts:-$dev_parts}; fi
[[ -n $train_parts ]] || die "--parts \"$parts\": no training part (train-*)"
[[ -n $dev_parts ]] || die "--parts \"$parts\": no dev part (dev-*), which chooses the checkpoint"
[[ -n $test_parts ]] || die "--parts \"$parts\": no test part (test-*)"

# One thread each when trainings run side by side; more threads than cores would only slow both down.
if ((jobs > 1)); then export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi

due() { ((stage <= $1 && $1 <= stop_stage)); }
wants() { [[ " $systems " == *" $1 "* ]]; }

train() { # train SYSTEM [further options of kdasr train]
  local system=$1
  shift
  kdasr train --config "$conf" --system "$system" --exp "$exp/$system" \
    --override "data.dir=$data" --override "seed=$seed" \
    --override "data.train_parts=[${train_parts// /,}]" --override "data.dev_parts=[${dev_parts// /,}]" \
    "${overrides[@]}" "$@"
}

# Students start from and learn from the average of the teacher's last checkpoints.
train_teacher() {
  train teacher && kdasr average "$exp/teacher"
}

# The confidence of words is calibrated before anything is decoded that tells it.
calibrate_and_decode() { # calibrate_and_decode SYSTEM
  kdasr calibrate "$exp/$1" --data "$data" --parts "$dev_parts" &&
    kdasr decode "$exp/$1" --data "$data" --parts "$test_parts" --mode offline
}

# Does sherpa-onnx hear in every test utterance what the PyTorch student hears? Asked once of an export and of the
# test parts; if not, the recipe goes on to the report and fails in the end.
check_export() {
  local bundle=$exp/two-stage/export record=$exp/log/check-export.txt part file cuts=() stale=0
  for part in $test_parts; do cuts+=("$data/cuts_$part.jsonl.gz"); done
  for file in "$bundle/manifest.json" "${cuts[@]}"; do
    if [[ ! $record -nt $file ]]; then stale=1; fi
  done
  if ((stale)); then
    mkdir -p "$exp/log"
    kdasr export --check "$bundle" "${cuts[@]}" --against "$exp/two-stage" \
      --long-form --gaps 1 --gap-noise quiet | tee "$record.partial" || return
    mv "$record.partial" "$record"
  else
    cat "$record"
  fi
}

# As a job beside others, which its failure does not end.
check_export_or_note() {
  check_export || touch "$exp/log/check-export.failed"
}

if due 0; then
  say "Stage 0: corpus"
  if [[ $corpus == synthetic ]]; then
    kdasr corpus synthetic --size "$size" --out "$data/corpus" --seed "$seed" --jobs "$jobs"
  elif [[ $corpus == cuts ]]; then
    echo "using $cuts"
  elif [[ -d $corpus_dir ]]; then
    echo "using $corpus_dir"
  else
    kdasr corpus librispeech --out "$(dirname "$corpus_dir")" --parts "$parts"
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
    for place in $cuts; do corpus_options+=(--cuts "$place"); done
  fi
  kdasr prepare "${corpus_options[@]}" --config "$conf" --out "$data" --jobs "$jobs"
fi

if due 2; then
  say "Stage 2: word pieces"
  kdasr tokens --data "$data" --config "$conf" ${vocab_size:+--vocab-size "$vocab_size"}
fi

if due 3 && wants teacher; then
  say "Stage 3: teacher"
  launch train-teacher train_teacher
fi

if due 4; then
  say "Stage 4: streaming baselines"
  if wants streaming; then launch train-streaming train streaming; fi
  finish train-teacher
  if wants streaming-init; then launch train-streaming-init train streaming-init; fi
  if wants unified; then launch train-unified train unified; fi
fi

if due 5 && wants two-stage; then
  say "Stage 5: student, stage one (hidden states)"
  finish train-teacher
  launch train-two-stage-hidden train two-stage --until-stage hidden
fi

if due 6 && wants two-stage; then
  say "Stage 6: student, stage two (output distributions)"
  finish train-two-stage-hidden
  launch train-two-stage train two-stage
fi
finish_all

if due 7; then
  say "Stage 7: averaged checkpoints, calibrated on dev, offline decoding"
  for system in $systems; do
    if [[ $system != teacher ]]; then kdasr average "$exp/$system"; fi
    launch "decode-offline-$system" calibrate_and_decode "$system"
  done
  finish_all
fi

if due 8; then
  say "Stage 8: streaming decoding"
  for system in $systems; do
    launch "decode-streaming-$system" \
      kdasr decode "$exp/$system" --data "$data" --parts "$test_parts" --mode streaming \
      ${gain_db:+--gain-db "$gain_db"}
  done
  finish_all
fi

if due 9 && wants two-stage; then
  say "Stage 9: export for sherpa-onnx"
  kdasr export "$exp/two-stage" --out "$exp/two-stage/export" --int8
  rm -f "$exp/log/check-export.failed"
  launch check-export check_export_or_note
fi

# Systems with a full context hear a stream at its end: kdasr says so and decodes nothing.
if due 10; then
  say "Stage 10: long streams"
  for system in $systems; do
    # shellcheck disable=SC2086 # several options in one string
    launch "decode-long-form-$system" \
      kdasr decode "$exp/$system" --data "$data" --parts "$test_parts" --long-form $long_form
  done
fi
finish_all
if due 9 && wants two-stage; then
  if ((jobs > 1)); then cat "$exp/log/check-export.log"; fi
  if [[ -e $exp/log/check-export.failed ]]; then differs=1; fi
fi

if due 11; then
  say "Stage 11: report"
  kdasr report "$exp" --data "$data"
fi
if ((differs)); then die "sherpa-onnx does not hear what the exported student hears: see stage 9 above"; fi
