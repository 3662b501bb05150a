#!/usr/bin/env bash
# The benchmark on an instance, without a shell there.
#
#   from anywhere:   scripts/ssm_benchmark.sh --instance i-0123… [--region REGION] [--output-dir DIR]
#                        [--remote /usr/src/ephemeralml] [-- options of `ephemeralml bench run`]
#   on the instance: scripts/ssm_benchmark.sh run FOLDER [options]   what `aws ssm send-command` runs
#                    scripts/ssm_benchmark.sh piece FOLDER NUMBER    a piece of the results, in base64
#
# Run Command shows 24,000 characters of an answer, and the host may write nothing to S3: results come back in pieces.
# You need ssm:SendCommand and ssm:GetCommandInvocation; the instance needs what Session Manager needs, and no more.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
piece_bytes=15000
last_seconds=7200

usage() {
    sed -n '4,7s/^# \{0,3\}//p' "$0" >&2
    exit "$1"
}

run() {
    local folder=$1
    shift
    mkdir -p "$folder"
    # All it says goes to a file: Run Command would keep the beginning, and failures are at the end.
    if ! "$root/scripts/run_benchmark.sh" "$@" --output-dir "$folder" >"$folder/log" 2>&1; then
        tail -n 5 "$folder/log" >&2
        echo "all of it is in $folder/log" >&2
        exit 1
    fi
    tar --create --gzip --file "$folder.tar.gz" --directory "$folder" .
    echo "results $(stat --format %s "$folder.tar.gz") $(sha256sum "$folder.tar.gz" | cut -d' ' -f1)"
}

piece() {
    dd if="$1.tar.gz" bs="$piece_bytes" skip="$2" count=1 status=none | base64 --wrap 0
}

# Sends one command and prints what it printed.
ask() {
    local parameters id answer status
    parameters=$(jq --null-input --compact-output --arg command "$1" --arg seconds "$last_seconds" \
        '{commands: [$command], executionTimeout: [$seconds]}')
    id=$(aws ssm send-command "${region[@]}" --instance-ids "$instance" --document-name AWS-RunShellScript \
        --comment "EphemeralML benchmark" --parameters "$parameters" --query Command.CommandId --output text)
    while :; do
        # For a moment the command is not known there yet.
        answer=$(aws ssm get-command-invocation "${region[@]}" --command-id "$id" --instance-id "$instance" \
            --output json 2>"$scratch/error") || {
            grep -q InvocationDoesNotExist "$scratch/error" || { cat "$scratch/error" >&2 && return 1; }
            answer='{"Status": "Pending"}'
        }
        status=$(jq --raw-output .Status <<<"$answer")
        case $status in
        Success) jq --raw-output .StandardOutputContent <<<"$answer" && return ;;
        Pending | InProgress | Delayed) sleep "$poll_seconds" ;;
        *)
            echo "the instance says $status: $(jq --raw-output .StandardErrorContent <<<"$answer")" >&2
            return 1
            ;;
        esac
    done
}

collect() {
    local instance= region=() out=bench-results remote=/usr/src/ephemeralml folder answer size digest number options=
    local poll_seconds=${SSM_POLL_SECONDS:-5}
    while [ $# -gt 0 ]; do
        case $1 in
        --instance) instance=${2:?} && shift ;;
        --region) region=(--region "${2:?}") && shift ;;
        --output-dir) out=${2:?} && shift ;;
        --remote) remote=${2:?} && shift ;;
        --) shift && break ;;
        *) usage 2 ;;
        esac
        shift
    done
    [ -n "$instance" ] || usage 2
    [ $# -eq 0 ] || options=$(printf ' %q' "$@")
    scratch=$(mktemp --directory)
    trap 'rm -rf "$scratch"' EXIT
    folder=/var/tmp/ephemeralml-bench-$(date +%s)-$$
    remote=$(printf %q "$remote/scripts/ssm_benchmark.sh")
    echo "ssm: the benchmark runs on $instance; this takes up to 40 minutes" >&2
    answer=$(ask "$remote run $folder$options")
    read -r _ size digest < <(tail -n 1 <<<"$answer")
    for ((number = 0; number * piece_bytes < size; number++)); do
        ask "$remote piece $folder $number" | base64 --decode >>"$scratch/results.tar.gz"
    done
    if [ "$(sha256sum <"$scratch/results.tar.gz" | cut -d' ' -f1)" != "$digest" ]; then
        echo "ssm: what came is not what the instance has; its results are in $folder.tar.gz there" >&2
        return 1
    fi
    mkdir -p "$out"
    tar --extract --gzip --file "$scratch/results.tar.gz" --directory "$out" --no-same-owner
    ask "rm -rf $folder $folder.tar.gz" >&2
    ls "$out"
}

case ${1:-} in
run) [ $# -gt 1 ] || usage 2 && shift && run "$@" ;;
piece) [ $# -eq 3 ] || usage 2 && shift && piece "$@" ;;
--help) usage 0 ;;
*) collect "$@" ;;
esac
