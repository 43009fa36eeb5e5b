# Options of the scripts around `kdasr results`: run_results.sh, run_lpm.sh. Sourced, not run.

# Options that run.sh and `kdasr results` take as they are; all others set the script's variable of that name.
prepare_options="--corpus-dir --alignments-dir --parts"
results_options="--rows --markdown --override"
prepare=() options=()

# driver_options "--own --other" "$@": sorts arguments into prepare, options and the variables of the own options.
driver_options() {
  local own=$1 variable
  shift
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit 0 ;;
      --dry-run)
        options+=("$1")
        shift
        continue ;;
    esac
    [[ " $own $prepare_options $results_options " == *" $1 "* ]] || die "unknown option $1; see --help"
    [[ $# -ge 2 ]] || die "$1 needs a value"
    if [[ " $prepare_options " == *" $1 "* ]]; then
      prepare+=("$1" "$2")
    elif [[ " $results_options " == *" $1 "* ]]; then
      options+=("$1" "$2")
    else
      variable=${1#--}
      printf -v "${variable//-/_}" '%s' "$2"
    fi
    shift 2
  done
}

# The settings for the size `results` were explored on corpora with seeds 1 and 2, so what is reported is of another one.
default_corpus_seed() { [[ $1 == results ]] && echo 3 || echo 1; }
