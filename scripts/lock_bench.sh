#!/bin/sh
# Pin requirements/bench.txt: the peers of `make bench-speed` beside the very libraries that run here.
set -eu
cd "$(dirname "$0")/.."
# torch 2.13.0 without CUDA, CPython 3.11 on x86-64 Linux: pip takes it where its configuration offers CPU builds. It has a
# line of its own, since of two builds that a hash allows pip takes the one whose index tells the hash beforehand.
cpu_torch=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
cpu_where="sys_platform == 'linux' and platform_machine == 'x86_64' and python_full_version < '3.12'"
constraints=$(mktemp) resolved=$(mktemp)
trap 'rm -f "$constraints" "$resolved"' EXIT
# fastembed asks for huggingface-hub < 2; nothing that is measured uses it, so it alone may differ from runtime.txt.
grep -E '^[a-z]' requirements/runtime.txt | sed 's/ *\\$//' | grep -v '^huggingface-hub==' >"$constraints"
uv pip compile --quiet pyproject.toml --all-extras --group build --group bench --universal --python-version 3.11 \
    --generate-hashes --no-header -c "$constraints" >"$resolved"
{
    echo "# Everything of .venv-bench, installed with --no-deps. Made by scripts/lock_bench.sh."
    echo "# Left out: what torch's CUDA build asks for (nvidia-*, cuda-*, triton), several GB that the CPU build does without."
    awk -v hash="$cpu_torch" -v where="$cpu_where" -v constraints="$constraints" '
        /^[a-z]/ { drop = /^(nvidia-|cuda-|triton|pyarrow)/ } # pyarrow: nothing that is measured writes Parquet
        /^torch==/ {
            print $1 "+cpu ; " where " \\\n    --hash=sha256:" hash
            gsub("and", "or", where); gsub("==", "!=", where); gsub("<", ">=", where)
            print $1 " ; " where " \\"
            next
        }
        !drop { sub("-c " constraints, "-c requirements/runtime.txt"); print }' "$resolved"
} >requirements/bench.txt.new
mv requirements/bench.txt.new requirements/bench.txt
