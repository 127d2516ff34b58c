#!/bin/bash
# What KubeRay 1.7 does with an image, in the order it does it; run by image_check.py inside of it.
set -euo pipefail
say() { echo "== $*"; }

say "the package is the installed one, for uid $(id -u)"
test "$(id -u)" = 1000
python - <<'PYTHON'
import dsvl_pipeline
assert dsvl_pipeline.__file__.startswith("/opt/venv/"), dsvl_pipeline.__file__
PYTHON
pip check
dsvl --help > /dev/null
if dsvl --help | grep -q "^  *doctor "; then dsvl doctor; fi
bash -lc "ray --version && python -c 'import dsvl_pipeline'" # ENABLE_LOGIN_SHELL of the operator
ray kuberay-autoscaler --help > /dev/null

say "the operator's command of the head"
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=5 TMPDIR=/tmp/spill RAY_TMPDIR=/tmp
mkdir "$TMPDIR"
/bin/bash -c -- "ulimit -n 65536; ray start --head --block --dashboard-host=0.0.0.0 --num-cpus=3 \
  --metrics-export-port=8080 --dashboard-agent-listen-port=52365" > /tmp/head.log 2>&1 &
head=$!

say "the init container of the workers"
for _ in $(seq 60); do ray health-check --address 127.0.0.1:6379 > /dev/null 2>&1 && break; sleep 1; done
ray health-check --address 127.0.0.1:6379

say "the probes"
get() { python -c "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())" "$1"; }
for _ in $(seq 60); do get http://localhost:52365/api/healthz > /dev/null 2>&1 && break; sleep 1; done
get http://localhost:52365/api/healthz
get http://localhost:8265/api/gcs_healthz
test -d /tmp/ray/session_latest/logs # where the autoscaler's container looks
get http://localhost:8080/metrics > /tmp/metrics && grep -q ray_ /tmp/metrics

say "the submitter"
cat > /tmp/job.yaml <<'YAML'
name: image-check
input: {images: /opt/venv/lib/python3*/site-packages/dsvl_pipeline/demo/samples/*.jpg}
prompts: [{id: caption, text: "Describe the image."}]
model: {checkpoint: demo}
generation: {max_new_tokens: 16}
engine: {kind: fake}
output: {uri: /tmp/table}
max_error_fraction: 0.5
YAML
ray job submit --address http://127.0.0.1:8265 -- python jobs/caption.py --config /tmp/job.yaml
dsvl verify /tmp/table
dsvl status /tmp/table

say "the kubelet's SIGTERM"
kill -TERM "$head"
wait "$head" || true
if grep -lx raylet /proc/[0-9]*/comm; then echo "a raylet outlived its pod"; exit 1; fi
say "done"
