# Sourced with $root, this repository: $ephemeralml becomes the command of this clone, or else the installed one.
ephemeralml=${EPHEMERALML:-}
for place in "$root/.venv-bench/bin/ephemeralml" "$root/.venv/bin/ephemeralml"; do
    [ -n "$ephemeralml" ] || [ ! -x "$place" ] || ephemeralml=$place
done
[ -n "$ephemeralml" ] || ephemeralml=$(command -v ephemeralml) || {
    echo "no ephemeralml command here: run \`make bench\` once, or install the package" >&2
    exit 2
}
