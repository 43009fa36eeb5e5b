#!/usr/bin/env bash
# Streaming students from labels that Whisper, or another recognizer, has written: what untranscribed speech is worth.
#
#   egs/librispeech/run_whisper.sh --untranscribed "PLACE ..." --corpus-dir DIR [--stage N] [--stop-stage M]
#
# Stages
#   0 labels of the untranscribed speech, and their filters: `kdasr label`
#   1 features of the labeled part (train-labeled) and of the transcribed parts
#   2 word pieces
#   3 every row with every seed: labels alone from scratch and from a start, other chunks, with and without labels
#     beside transcribed speech: `kdasr results`. With --ngram or --phrases every row is decoded by other searches, too
#
# Options
#   --untranscribed "A B ..."   manifests of Lhotse cuts, Shar folders or folders of audio files; may be repeated, once
#                         for each path with spaces
#   --labeler KIND:PLACE  whisper:FOLDER_OR_NAME, bundle:EXP, sherpa:FOLDER or jsonl:FILE (default: whisper:base)
#   --language NAME       what is spoken (default: en)
#   --label-option O=V    further option of kdasr label, without its dashes: beam=1, filter=score=-0.8; may be repeated
#   --corpus-dir DIR      transcribed speech in LibriSpeech's layout, of which
#   --parts "A B ..."     these parts are used (default: train-clean-100 dev-clean test-clean)
#   --cuts "P=FILE ..."   transcribed speech as Lhotse cuts instead of --corpus-dir; may be repeated likewise
#   --conf FILE           another configuration than conf/whisper/whisper.yaml; rows are under its `results:`
#   --labels DIR          where labels go (default: <exp>/labels); one folder per labeler, to compare labelers
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/whisper, exp/whisper)
#   --vocab-size N        word pieces, instead of the number in the configuration
#   --jobs N              processes side by side, one thread each (default: 1)
#   --ngram FILE          an n-gram, in ARPA or as KenLM writes it: rows are decoded by beam search without it and, by
#                         shallow fusion, with it (`ngram`; its scale: --override results.searches.ngram.lm_scale=0.3)
#   --phrases FILE        names, one on a line: rows are decoded by beam search without them and biased to them (`phrases`)
#   --gpus N              GPUs of this machine, shared out among the jobs (docs/many_gpus.md)
#   --rows "A B ..."      only these rows and what they start from (default: all)
#   --upto NAME           dev: nothing decodes a test part, for choosing; test: all (default: test)
#   --override K=V        further option of every system; may be repeated
#   --dry-run             print the commands of stages 0 to 2, say what of stage 3 is finished and what would run
#
# A finished job is skipped, an interrupted one resumes. Labels: <exp>/labels/filters.json and filters.png; results:
# <exp>/summary.json, <exp>/results.md; logs: <exp>/log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/options.sh
. "$here/local/options.sh"

labeler=whisper:base language=en corpus_dir="" labels="" vocab_size="" jobs=1 upto=test ngram="" phrases=""
parts="train-clean-100 dev-clean test-clean"
conf=$here/conf/whisper/whisper.yaml data=$root/data/whisper exp=$root/exp/whisper
stage=0 stop_stage=3
untranscribed=() cuts=() label_options=() options=() overrides=() dry_run=()
takes --labeler --language --corpus-dir --parts --labels --conf --data --exp --vocab-size --jobs \
  --upto --ngram --phrases --stage --stop-stage
collects untranscribed --untranscribed
collects cuts --cuts
collects label_options --label-option
collects options --gpus --rows
collects overrides --override
flags dry_run --dry-run
parse_options "$@"
whole_numbers_and_jobs stage stop_stage
has_stages 3
[[ $upto == dev || $upto == test ]] || die "--upto $upto: expected dev or test"
[[ -f $conf ]] || die "no configuration $conf"
for file in "$ngram" "$phrases"; do
  [[ -z $file || -e $file ]] || die "$file: no such file"
done
labels=${labels:-$exp/labels}
command -v kdasr >/dev/null || die "the kdasr command is not on PATH; run 'make setup' and 'source .venv/bin/activate'"

due() { ((stage <= $1 && $1 <= stop_stage)); }

# LibriSpeech is written in capitals without punctuation; so are labels for it.
if due 0; then
  places=() place_options=() further=()
  add_places places "${untranscribed[@]}"
  ((${#places[@]})) || die "--untranscribed: name the speech that is to be labeled"
  say "Labels by $labeler"
  for place in "${places[@]}"; do place_options+=(--cuts "$place"); done
  for ((i = 1; i < ${#label_options[@]}; i += 2)); do
    [[ ${label_options[i]} == *=* ]] || die "--label-option ${label_options[i]}: expected NAME=VALUE"
    further+=("--${label_options[i]%%=*}" "${label_options[i]#*=}")
  done
  now kdasr label --labeler "$labeler" "${place_options[@]}" --out "$labels" --language "$language" --normalize upper-words \
    --jobs "$jobs" "${further[@]}"
fi

if due 1; then
  say "Manifests and features"
  transcribed=() places=()
  add_places places "${cuts[@]}"
  if ((${#places[@]})); then
    [[ -z $corpus_dir ]] || die "--corpus-dir and --cuts: give one of them"
    for place in "${places[@]}"; do transcribed+=(--cuts "$place"); done
  elif [[ -n $corpus_dir ]]; then
    transcribed=(--corpus-dir "$corpus_dir" --parts "$parts")
  else
    die "--corpus-dir or --cuts: where is the transcribed speech? Dev parts choose the checkpoint"
  fi
  now kdasr prepare --cuts "train-labeled=$labels" --config "$conf" "${overrides[@]}" --out "$data" --jobs "$jobs"
  now kdasr prepare "${transcribed[@]}" --config "$conf" "${overrides[@]}" --out "$data" --jobs "$jobs"
fi

if due 2; then
  say "Word pieces"
  now kdasr tokens --data "$data" --config "$conf" "${overrides[@]}" ${vocab_size:+--vocab-size "$vocab_size"}
fi

if due 3; then
  [[ -z $ngram$phrases ]] || options+=(--override results.searches.beam.beam=4)
  [[ -z $ngram ]] || options+=(--override "results.searches.ngram.lm=$(realpath "$ngram")")
  [[ -z $phrases ]] || options+=(--override "results.searches.phrases.biasing=$(realpath "$phrases")")
  say "Rows"
  exec kdasr results "$conf" --data "$data" --exp "$exp" --jobs "$jobs" --upto "$upto" "${options[@]}" "${overrides[@]}" \
    "${dry_run[@]}"
fi
