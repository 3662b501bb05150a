#!/bin/sh
# Pin requirements/bench.txt: the peers of `make bench-speed` beside the very libraries that run here.
set -eu
cd "$(dirname "$0")/.."
# torch 2.13.0 without CUDA, CPython 3.11 on x86-64 Linux: pip takes it where its configuration offers CPU builds.
cpu_torch=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
constraints=$(mktemp) resolved=$(mktemp)
trap 'rm -f "$constraints" "$resolved"' EXIT
# fastembed asks for huggingface-hub < 2; nothing that is measured uses it, so it alone may differ from runtime.txt.
grep -E '^[a-z]' requirements/runtime.txt | sed 's/ *\\$//' | grep -v '^huggingface-hub==' >"$constraints"
uv pip compile --quiet pyproject.toml --all-extras --group build --group bench --universal --python-version 3.11 \
    --generate-hashes --no-header -c "$constraints" >"$resolved"
{
    echo "# Everything of .venv-bench, installed with --no-deps. Made by scripts/lock_bench.sh."
    echo "# Left out: what torch's CUDA build asks for (nvidia-*, cuda-*, triton), several GB that the CPU build does without."
    awk -v cpu="$cpu_torch" -v constraints="$constraints" '
        /^[a-z]/ { drop = /^(nvidia-|cuda-|triton)/ }
        !drop { sub("-c " constraints, "-c requirements/runtime.txt"); print }
        /^torch==/ { print "    --hash=sha256:" cpu " \\" }' "$resolved"
} >requirements/bench.txt.new
mv requirements/bench.txt.new requirements/bench.txt
