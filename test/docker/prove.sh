#!/usr/bin/env bash
# Builds the cpu image for real, starts it and talks to it. Needs root on a Debian machine; no container engine: buildah
# builds and runs in a chroot. What that isolation cannot show (namespaces, read-only root, a GPU) is listed at the end.
# usage: npm run test:docker
set -euo pipefail
cd "$(dirname "$0")/../.."
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
image=localhost/twelvex:cpu
base=localhost/twelvex-base:bookworm
port=${PORT:-18473}
work=$(mktemp -d)
container=""
server=""

cleanup() {
  [ -n "$server" ] && kill -9 "$server" 2>/dev/null || true
  [ -n "$container" ] && buildah rm "$container" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
step() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

step "tools"
missing=()
for tool in buildah debootstrap curl; do command -v "$tool" >/dev/null || missing+=("$tool"); done
[ "$(id -u)" -eq 0 ] || fail "needs root, to make a base and to build in a chroot: sudo npm run test:docker"
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
[ -d node_modules/openai ] || npm ci --no-audit --no-fund
test/docker/make-base.sh "$base"

step "build --target cpu"
buildah bud --layers --build-arg NODE_IMAGE="$base" --target cpu -t "$image" -f Dockerfile . >"$work/build.log" 2>&1 ||
  { tail -40 "$work/build.log"; fail "the image does not build"; }
tail -3 "$work/build.log"

step "what is in it"
container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
bytes=$(du -sx --block-size=1 --exclude=proc --exclude=sys "$root" | cut -f1)
echo "uncompressed size: $((bytes / 1000000)) MB"
[ "$bytes" -le 350000000 ] || fail "larger than 350 MB"
for tool in gcc g++ cc c++ cmake make ninja npm; do
  [ -z "$(find "$root"/usr/bin "$root"/usr/local/bin -name "$tool" 2>/dev/null)" ] || fail "$tool is in the runtime image"
done
writable=$(find "$root" -xdev \( -uid 10001 -o -perm -o+w \) -not -type l -not -path "$root/models" -not -path "$root/tmp*" \
  -not -path "$root/var/tmp*" -not -path "$root/run/*" -not -path "$root/dev/*" -not -path "$root/proc/*" | head -5)
[ -z "$writable" ] || fail "the server's user can write: $writable"
buildah inspect "$container" | grep -q '"User": "10001:10001"' || fail "the image does not run as user 10001"
echo "no compiler, no npm; user 10001; nothing but /models and /tmp is writable"

step "start, with the demo model and nothing mounted"
# The command line of the image (ENTRYPOINT and CMD), which buildah run does not add by itself.
buildah run --user 10001:10001 --env TWELVEX_PORT="$port" "$container" -- node dist/server/main.js serve >"$work/server.log" 2>&1 &
runner=$!
server=""
for _ in $(seq 1 100); do
  if curl -sf "http://127.0.0.1:$port/health" >/dev/null; then break; fi
  kill -0 $runner 2>/dev/null || { cat "$work/server.log"; fail "the container ended"; }
  sleep 0.2
done
curl -sf "http://127.0.0.1:$port/health" >/dev/null || { cat "$work/server.log"; fail "not healthy after 20 s"; }
# The log says which process it is; another server may run on this machine.
server=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$work/server.log" | head -1)
buildah run --env TWELVEX_PORT="$port" "$container" -- node docker/healthcheck.mjs || fail "healthcheck.mjs says unhealthy"
echo "healthy; healthcheck.mjs agrees"

step "curl"
curl -sf "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' \
  -d '{"messages":[{"role":"user","content":"What is 34 + 27?"}],"temperature":0,"max_tokens":64}' | tee "$work/curl.json"
echo
grep -q '"finish_reason":"stop"' "$work/curl.json" || fail "no complete answer"

step "openai SDK, and SIGTERM during a stream"
node test/docker/clients.mjs "http://127.0.0.1:$port/v1" "$server" || fail "client"
set +e
wait $runner
status=$?
set -e
[ "$status" -eq 0 ] || { tail -20 "$work/server.log"; fail "exit status $status after SIGTERM, expected 0"; }
server=""
echo "the stream finished, the container ended with status 0"

printf '\nall passed. Not shown here: GPU containers (docker run --gpus 2 twelvex:cuda serve --device cuda --tp 2 --model /model),\n'
printf 'docker run --read-only --cap-drop ALL twelvex:cpu, docker compose up: they need a container engine.\n'
