#!/usr/bin/env bash
# The evidence: every row of a configuration trained with several seeds, decoded, and compared.
#
#   egs/librispeech/run_results.sh [--size results] [--jobs N] [--rows "A B ..."] [--stage dev|test]
#
# Options
#   --corpus NAME         synthetic (default) or librispeech, prepared by run.sh
#   --size NAME           which conf/NAME.yaml, and for synthetic speech how much (default: results)
#   --conf FILE           another configuration than conf/<size>.yaml; rows are under its `results:`
#   --data DIR, --exp DIR where prepared data and experiments go (default: data/<size>, exp/<size>)
#   --corpus-dir DIR, --alignments-dir DIR, --parts "A B ..."   as in run.sh
#   --corpus-seed N       seed of the synthetic corpus (default: 2; settings were explored on others)
#   --jobs N              processes side by side, one thread each (default: 1)
#   --rows "A B ..."      only these rows and the teacher (default: all)
#   --stage NAME          dev: train, decode the dev parts, nothing of the test parts; test: all (default: test)
#   --markdown FILE       fill the section of this document that has the configuration's name, too
#   --override K=V        further option of every system; may be repeated
#   --dry-run             say what is finished and what would run
#
# A finished job is skipped while its settings stay the same, an interrupted one resumes. Results: <exp>/summary.json,
# <exp>/results.md, <exp>/wer-latency.png; logs: <exp>/log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

die() {
  echo "run_results.sh: error: $*" >&2
  exit 1
}

size=results conf="" data="" exp="" jobs=1 corpus_seed=2
prepare=() options=()
while (($#)); do
  case $1 in
    -h | --help)
      sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
      exit 0 ;;
    --dry-run)
      options+=("$1")
      shift
      continue ;;
    --corpus | --size | --conf | --data | --exp | --corpus-dir | --alignments-dir | --parts | --corpus-seed | --jobs | \
      --rows | --stage | --markdown | --override)
      [[ $# -ge 2 ]] || die "$1 needs a value" ;;
    *) die "unknown option $1; see --help" ;;
  esac
  case $1 in
    --corpus | --corpus-dir | --alignments-dir | --parts) prepare+=("$1" "$2") ;;
    --rows | --stage | --markdown | --override) options+=("$1" "$2") ;;
    *)
      variable=${1#--}
      printf -v "${variable//-/_}" '%s' "$2" ;;
  esac
  shift 2
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs $jobs: expected a whole number, at least 1"
conf=${conf:-$here/conf/$size.yaml}
data=${data:-$root/data/$size}
exp=${exp:-$root/exp/$size}
[[ -f $conf ]] || die "no configuration $conf"
command -v kdasr >/dev/null || die "the kdasr command is not on PATH; run 'make setup' and 'source .venv/bin/activate'"

"$here/run.sh" --size "$size" --conf "$conf" --data "$data" --exp "$exp" --seed "$corpus_seed" --jobs "$jobs" \
  --stage 0 --stop-stage 2 "${prepare[@]}"
# The last of two --stage counts.
exec kdasr results "$conf" --data "$data" --exp "$exp" --jobs "$jobs" --stage test "${options[@]}"
