#!/usr/bin/env bash
# Local prior matching: a system learns from speech without transcripts, with a language model as prior.
#
#   egs/librispeech/run_lpm.sh [--corpus synthetic|librispeech] [--stage N] [--stop-stage M]
#
# Stages
#   0 corpus, features, word pieces (stages 0 to 2 of run.sh): train-clean-100 keeps its transcripts; those of the
#     other training parts are for the topline, the word pieces, stage 1 and a comparison in the log
#   1 text for the language model, without the transcripts of all parts but train-clean-100
#   2 language model, seed model (which proposes first), every row with every seed, decoded with and without the
#     language model, and the report: `kdasr results`
#
# Options
#   --corpus NAME         synthetic (default) or librispeech
#   --size NAME           synthetic: how much speech (default: lpm, whose text a language model can know, and which
#                         alone has train-other-500; others need a --conf without it)
#   --conf FILE           another configuration than conf/lpm/lpm.yaml (librispeech: lpm-librispeech.yaml); rows are
#                         under its `results:`
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/<size or librispeech>; exp/lpm, and
#                         exp/lpm-<size or librispeech> unless the size is lpm)
#   --corpus-dir DIR, --alignments-dir DIR, --parts "A B ..."   as in run.sh
#   --corpus-seed N       seed of the synthetic corpus (default: 1; 3 for the size results, as in run_results.sh)
#   --text FILE           librispeech: text to train the language model on, a sentence per line, may be gzipped
#   --jobs N              processes side by side, one thread each (default: 1)
#   --gpus N              GPUs of this machine, shared out among the jobs (docs/many_gpus.md)
#   --rows "A B ..."      only these rows, what they start from, and the topline (default: all)
#   --upto NAME           dev: nothing decodes a test part, for choosing; test: all (default: test)
#   --markdown FILE       fill the section of this document that has the configuration's name, too
#   --override K=V        further option of every system but the language model; may be repeated
#   --dry-run             print the commands of stages 0 and 1, say what of stage 2 is finished and what would run
#
# A finished job is skipped while its settings stay the same, an interrupted one resumes. Results: <exp>/summary.json,
# <exp>/results.md; logs: <exp>/log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/options.sh
. "$here/local/options.sh"

parts="train-clean-100 train-clean-360 dev-clean dev-other test-clean test-other"
corpus=synthetic size="" conf="" data="" exp="" jobs=1 corpus_seed="" text="" upto=test
stage=0 stop_stage=2
prepare=() options=() overrides=() dry_run=()
takes --corpus --size --conf --data --exp --corpus-seed --text --jobs --upto --stage --stop-stage
collects prepare --corpus-dir --alignments-dir --parts
collects options --gpus --rows --markdown
collects overrides --override
flags dry_run --dry-run
parse_options "$@"
whole_numbers_and_jobs stage stop_stage
has_stages 2
[[ $upto == dev || $upto == test ]] || die "--upto $upto: expected dev or test"

case $corpus in
  synthetic)
    size=${size:-lpm}
    [[ $size != lpm ]] || parts+=" train-other-500"
    conf=${conf:-$here/conf/lpm/lpm.yaml}
    data=${data:-$root/data/$size}
    text=${text:-$data/corpus/librispeech-lm-norm.txt} ;;
  librispeech)
    [[ -z $size ]] || die "--size is for synthetic speech; give --conf"
    size=librispeech
    conf=${conf:-$here/conf/lpm/lpm-librispeech.yaml}
    data=${data:-$root/data/librispeech}
    text=${text:-$data/corpus/librispeech-lm-norm.txt.gz} ;;
  *) die "--corpus $corpus: expected synthetic or librispeech" ;;
esac
[[ " ${prepare[*]-} " == *" --parts "* ]] || prepare+=(--parts "$parts")
exp=${exp:-$root/exp/lpm$([[ $size == lpm ]] || echo "-$size")}
corpus_seed=${corpus_seed:-$(default_corpus_seed "$size")}
whole_numbers corpus_seed
[[ -f $conf ]] || die "no configuration $conf"
command -v kdasr >/dev/null || die "the kdasr command is not on PATH; run 'make setup' and 'source .venv/bin/activate'"

missing_text="no text $text for the language model; librispeech: https://www.openslr.org/11, or --text FILE"
due() { ((stage <= $1 && $1 <= stop_stage)); }
[[ $corpus == synthetic || -f $text ]] || ! due 1 || ((${#dry_run[@]})) || die "$missing_text"

if due 0; then
  "$here/run.sh" --corpus "$corpus" --size "$size" --conf "$conf" --data "$data" --exp "$exp" --seed "$corpus_seed" \
    --jobs "$jobs" --stage 0 --stop-stage 2 "${prepare[@]}" "${overrides[@]}" "${dry_run[@]}"
fi

if due 1; then
  say "Text for the language model"
  [[ -f $text ]] || ((${#dry_run[@]})) || die "$missing_text"
  known=()
  for manifest in "$data"/cuts_*.jsonl.gz; do
    [[ -f $manifest ]] || continue
    part=$(basename "$manifest" .jsonl.gz)
    [[ $part == cuts_train-clean-100 ]] || known+=("${part#cuts_}")
  done
  ((${#known[@]} || ! ${#dry_run[@]})) || known=("...")
  now kdasr text "$text" --data "$data" --parts "${known[*]}"
fi

if due 2; then
  say "Language model, seed model, rows"
  exec kdasr results "$conf" --data "$data" --exp "$exp" --jobs "$jobs" --upto "$upto" "${options[@]}" "${overrides[@]}" \
    "${dry_run[@]}"
fi
