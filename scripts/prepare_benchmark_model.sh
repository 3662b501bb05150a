#!/bin/sh
# A model folder into an encrypted package whose key is released to the enclave that serves and to the one that measures.
#
#   scripts/prepare_benchmark_model.sh OUT [--model FOLDER | --hugging-face NAME] [--precision fp32|bf16|int8]
#                                          [--kms-key ARN] [--kms-endpoint URL]
#
# OUT gets owner.key, enclave.json, the measurements of both enclaves of this machine, and package. The model is the
# installed MiniLM-L6-v2 unless another is named. --kms-key: a key on AWS whose policy you made; without it a local KMS
# in OUT/kms makes one (run that KMS again with the same folder and --root OUT/dev-root to use the package).
# `bench run --platform local` needs none of this: it packs for itself.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/scripts/find_ephemeralml.sh"
usage() {
    sed -n 's/^# \{0,1\}//; 2,11p' "$0" >&2
    exit "$1"
}
out= model= name= precision=fp32 key= endpoint=
while [ $# -gt 0 ]; do
    case $1 in
    --help) usage 0 ;;
    --model | --hugging-face | --precision | --kms-key | --kms-endpoint) [ $# -gt 1 ] || usage 2 ;;
    esac
    case $1 in
    --model) model=$2 && shift ;;
    --hugging-face) name=$2 && shift ;;
    --precision) precision=$2 && shift ;;
    --kms-key) key=$2 && shift ;;
    --kms-endpoint) endpoint=$2 && shift ;;
    -*) usage 2 ;;
    *) [ -z "$out" ] && out=$1 || usage 2 ;;
    esac
    shift
done
[ -n "$out" ] && { [ -z "$model" ] || [ -z "$name" ]; } || usage 2
[ ! -e "$out/package" ] || {
    echo "$out/package is there already: choose another folder, or remove it" >&2
    exit 2
}
mkdir -p "$out"
python=$(dirname "$ephemeralml")/python
[ -x "$python" ] || python=python3
if [ -n "$name" ]; then
    model=$out/model
    "$python" - "$name" "$model" <<'DOWNLOAD'
import sys
from huggingface_hub import snapshot_download

snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=["*.json", "*.txt", "model.safetensors"])
DOWNLOAD
elif [ -z "$model" ]; then
    model=$("$ephemeralml" model)
    name=$(basename "$(dirname "$model")")
fi
identity=$(basename "${name:-$(cd "$model" && pwd)}")
[ -e "$out/owner.key" ] || "$ephemeralml" keygen "$out/owner.key" >"$out/owner.txt"
printf '{"model_owner": "%s", "model_id": "%s"}\n' "$(cat "$out/owner.key.pub")" "$identity" >"$out/enclave.json"
"$ephemeralml" enclave measure "$out/enclave.json" >"$out/measurements.json"
"$ephemeralml" enclave measure "$out/enclave.json" --bench >"$out/measurements-bench.json"
if [ -z "$key" ]; then
    mkfifo "$out/kms.said"
    "$ephemeralml" kms run "$out/kms" --root "$out/dev-root" --port 0 >"$out/kms.said" &
    kms=$!
    trap 'kill "$kms" 2>/dev/null; rm -f "$out/kms.said"' EXIT
    exec 3<"$out/kms.said"
    read -r said <&3 || { echo "the local KMS did not start" >&2 && exit 1; }
    endpoint=${said##* }
    # Whatever else it says must go somewhere.
    cat <&3 >/dev/null &
    AWS_SHARED_CREDENTIALS_FILE=$out/kms/credentials AWS_PROFILE=owner
    export AWS_SHARED_CREDENTIALS_FILE AWS_PROFILE
    key=$("$ephemeralml" kms create-key --measurements "$out/measurements.json" \
        --measurements "$out/measurements-bench.json" --endpoint "$endpoint")
fi
set -- "$model" "$out/package" --key "$out/owner.key" --version 1 --model-id "$identity" --kms-key "$key"
[ -z "$endpoint" ] || set -- "$@" --kms-endpoint "$endpoint"
"$ephemeralml" pack "$@" --precision "$precision"
