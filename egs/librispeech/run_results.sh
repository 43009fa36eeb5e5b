#!/usr/bin/env bash
# The evidence: every row of a configuration trained with several seeds, decoded, and compared.
#
#   egs/librispeech/run_results.sh [--size results] [--jobs N] [--rows "A B ..."] [--upto dev|test]
#
# Options
#   --corpus NAME         synthetic (default) or librispeech, prepared by run.sh
#   --size NAME           which conf/NAME.yaml, and for synthetic speech how much (default: results)
#   --conf FILE           another configuration than conf/<size>.yaml; rows are under its `results:`
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/<size>, exp/<size>)
#   --corpus-dir DIR, --alignments-dir DIR, --parts "A B ..."   as in run.sh
#   --corpus-seed N       seed of the synthetic corpus (default: 3 for the size results, else 1)
#   --jobs N              processes side by side, one thread each (default: 1)
#   --gpus N              GPUs of this machine, shared out among the jobs (docs/many_gpus.md)
#   --rows "A B ..."      only these rows and the teacher (default: all)
#   --upto NAME           dev: train, decode the dev parts, nothing of the test parts; test: all (default: test)
#   --markdown FILE       fill the section of this document that has the configuration's name, too
#   --override K=V        further option of every system; may be repeated
#   --dry-run             print the commands of the data, say what of the rows is finished and what would run
#
# A finished job is skipped while its settings stay the same, an interrupted one resumes. Results: <exp>/summary.json,
# <exp>/results.md, <exp>/wer-latency.png; logs: <exp>/log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# shellcheck source=local/messages.sh
. "$here/local/messages.sh"
# shellcheck source=local/options.sh
. "$here/local/options.sh"

corpus=synthetic size=results conf="" data="" exp="" jobs=1 corpus_seed="" upto=test
prepare=() options=() overrides=() dry_run=()
takes --corpus --size --conf --data --exp --corpus-seed --jobs --upto
collects prepare --corpus-dir --alignments-dir --parts
collects options --gpus --rows --markdown
collects overrides --override
flags dry_run --dry-run
renamed --stage --upto
parse_options "$@"
corpus_seed=${corpus_seed:-$(default_corpus_seed "$size")}
whole_numbers_and_jobs corpus_seed
[[ $upto == dev || $upto == test ]] || die "--upto $upto: expected dev or test"
conf=${conf:-$here/conf/$size.yaml}
data=${data:-$root/data/$size}
exp=${exp:-$root/exp/$size}
[[ -f $conf ]] || die "no configuration $conf"
command -v kdasr >/dev/null || die "the kdasr command is not on PATH; run 'make setup' and 'source .venv/bin/activate'"

"$here/run.sh" --corpus "$corpus" --size "$size" --conf "$conf" --data "$data" --exp "$exp" --seed "$corpus_seed" --jobs "$jobs" \
  --stage 0 --stop-stage 2 "${prepare[@]}" "${overrides[@]}" "${dry_run[@]}"
exec kdasr results "$conf" --data "$data" --exp "$exp" --jobs "$jobs" --upto "$upto" "${options[@]}" "${overrides[@]}" "${dry_run[@]}"
