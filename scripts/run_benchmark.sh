#!/bin/sh
# The six metrics on bare metal and in an enclave, then the report beside them. Options are those of
# `ephemeralml bench run`: --platform local|vm|nitro, --skip-baseline, --iterations N, --warmup N, --output-dir DIR, --quick, …
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/find_ephemeralml.sh"
for word in "$@"; do
    [ "$word" != --help ] || exec "$ephemeralml" bench run --help
done
# It prints what it wrote: an older baseline that lies beside it is not one of this run.
written=$("$ephemeralml" bench run "$@")
printf '%s\n' "$written"
printf '%s\n' "$written" | {
    set --
    while IFS= read -r path; do
        case $path in *_results.json) set -- "$@" "$path" ;; esac
    done
    "$ephemeralml" bench report "$@" --output "$(dirname "$1")/benchmark_report.md"
}
