#!/usr/bin/env bash
# Validates docker/kubernetes and the rendered chart, and tries the alerts. Installs what it needs from npm and, for the chart, Debian.
# usage: npm run test:manifests
set -euo pipefail
cd "$(dirname "$0")"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
npm install --prefix "$packages" --no-audit --no-fund --silent kubernetes-models@4.5.1 @kubernetes-models/keda@0.4.2 @kubernetes-models/gateway-api@0.5.1 yaml@2
node check-manifests.mjs "$packages" ../../docker/kubernetes/*.yaml

if command -v promtool >/dev/null; then
  promtool check rules ../../docker/observability/alerts.yml
  promtool test rules alerts-test.yml
else
  echo "alerts not tried: promtool is not here (Debian: prometheus)"
fi

render=""
if command -v helm >/dev/null; then
  render=helm
elif command -v apt-get >/dev/null; then
  [ -d /usr/share/gocode/src/github.com/Masterminds/sprig ] && command -v go >/dev/null || {
    [ "$(id -u)" -eq 0 ] || { echo "needs helm, or root to install Go and sprig: sudo npm run test:manifests" >&2; exit 1; }
    apt-get update -qq && apt-get install -y -qq --no-install-recommends golang-go golang-github-masterminds-sprig-dev golang-gopkg-yaml.v3-dev >/dev/null
  }
  render=go
else
  echo "chart not rendered: neither helm nor apt-get here"
  exit 1
fi

chart() {
  if [ "$render" = helm ]; then
    helm template demo ../../docker/helm/twelvex $(printf -- '--set %s ' "$@")
  else
    GO111MODULE=off GOPATH=/usr/share/gocode go run render-chart.go ../../docker/helm/twelvex demo "$@"
  fi
}
for settings in "gpus=2" "gpus=0 image.tag=cpu models.existingClaim=shared" \
  "keda.enabled=true inferencePool.enabled=true apiKeySecret=key drain.timeoutSeconds=300"; do
  echo "chart with: $settings"
  # shellcheck disable=SC2086
  chart $settings | node check-manifests.mjs "$packages" -
done
