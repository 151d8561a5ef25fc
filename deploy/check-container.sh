#!/bin/sh
# Builds the image, starts it, asks the demo model for an answer, and stops it with SIGTERM.
# CONTAINER names a program with the verbs "build" and "run CMD"; without it, docker is used.
set -eu
cd "$(dirname "$0")/.."
PORT=${PORT:-18080}
DATA=$(mktemp -d)
LOG=$DATA/container.log
trap 'kill -- "-$RUNNING" 2>/dev/null || true; rm -rf "$DATA"' EXIT
RUNNING=
if [ -n "${CONTAINER:-}" ]; then
  "$CONTAINER" build .
  "$CONTAINER" size
  setsid "$CONTAINER" run -e MOZAIKS_PORT="$PORT" -e MOZAIKS_HOST=127.0.0.1 gateway serve >"$LOG" 2>&1 &
else
  docker build -t mozaiks-gateway .
  docker image inspect --format '{{.Size}}' mozaiks-gateway
  setsid docker run --rm -p "127.0.0.1:$PORT:8080" mozaiks-gateway >"$LOG" 2>&1 &
fi
RUNNING=$!
tries=0
until python3 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/readyz', timeout=1)" 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { cat "$LOG"; echo "not ready after 60 s"; exit 1; }
  kill -0 "$RUNNING" 2>/dev/null || { cat "$LOG"; echo "the container ended"; exit 1; }
  sleep 0.5
done
echo "ready after about $tries half seconds"
cat "$LOG"
KEY=$(grep -o 'mzk_live_[A-Za-z0-9_]*' "$LOG" | head -n 1)
python3 - "$PORT" "$KEY" <<'PY'
import json, sys, urllib.request
port, key = sys.argv[1:]
body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hello container"}]}).encode()
headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-platform-user-id": "demo-user"}
with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)) as answer:
    print(answer.status, dict(answer.headers)["x-mozaiks-cost"], json.load(answer)["usage"])
PY
echo "stopping"
# docker hands the signal on; another builder may not, so there the gateway itself gets it, as from an orchestrator.
if [ -n "${CONTAINER:-}" ]; then pkill -TERM -s "$RUNNING" -f 'python3 .*gateway serve'; else kill -TERM "$RUNNING"; fi
wait "$RUNNING" 2>/dev/null || true
tries=0
while python3 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$PORT/healthz', timeout=1)" 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { echo "it still answers 30 s after SIGTERM"; exit 1; }
  sleep 0.5
done
if grep -q Traceback "$LOG"; then cat "$LOG"; echo "it did not stop cleanly"; exit 1; fi
echo "stopped cleanly"
