# Option parsing and small helpers of run.sh and run_chunks.sh. Sourced, not run.

# The parts in $parts that begin with $1, separated by single spaces.
select_parts() {
  local part found=()
  for part in $parts; do
    if [[ $part == "$1"* ]]; then found+=("$part"); fi
  done
  echo "${found[*]-}"
}

# Sets the variable of each --option; --override may be repeated.
parse_options() {
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit 0 ;;
      --override)
        [[ $# -ge 2 ]] || die "--override needs a value"
        overrides+=(--override "$2")
        shift 2 ;;
      --corpus | --size | --conf | --corpus-dir | --alignments-dir | --parts | --cuts | --data | --exp | --vocab-size | \
        --systems | --long-form | --gain-db | --seed | --jobs | --stage | --stop-stage)
        [[ $# -ge 2 ]] || die "$1 needs a value"
        local variable=${1#--}
        printf -v "${variable//-/_}" '%s' "$2"
        shift 2 ;;
      *) die "unknown option $1; see --help" ;;
    esac
  done
  whole_numbers stage stop_stage jobs seed
  ((jobs >= 1)) || die "--jobs must be at least 1"
}
