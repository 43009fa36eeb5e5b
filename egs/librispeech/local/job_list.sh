# Puts together the list that `kdasr jobs` runs. Sourced, not run.
#
#   stage TEXT                   a heading
#   job NAME [NEEDED... [| BEFORE...]]
#                                a job, and the jobs that must have finished or, behind the bar, ended before it; those
#                                that this list does not have are finished already, and left out
#   run COMMAND...               a command of that job

job_list="" listed=""

stage() { job_list+="== $*"$'\n'; }

job() {
  local other line="$1:"
  for other in "${@:2}"; do
    if [[ $other == "|" || " $listed " == *" $other "* ]]; then line+=" $other"; fi
  done
  job_list+=$line$'\n'
  listed+=" $1"
}

run() { job_list+=$'\t'$(printf '%q ' "$@")$'\n'; }
