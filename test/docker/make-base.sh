#!/usr/bin/env bash
# Makes a local image that stands in for node:20-bookworm-slim where no registry can be reached: Debian from debootstrap,
# this machine's node and npm, its package sources and certificates.
# usage: make-base.sh IMAGE        (root; needs debootstrap and buildah)
set -euo pipefail
image=$1
if buildah inspect --type image "$image" >/dev/null 2>&1; then
  echo "base: $image exists"
  exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
echo "base: debootstrap bookworm"
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$root.log" 2>&1 || { tail -20 "$root.log"; exit 1; }
rm -f "$root.log"
# The machine's own way to reach packages: sources, proxies, certificates.
cp -a /etc/apt/sources.list.d/. "$root/etc/apt/sources.list.d/" 2>/dev/null || true
[ -f /etc/apt/sources.list ] && cp /etc/apt/sources.list "$root/etc/apt/" || rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
# Beside the bundle that the ca-certificates package owns and makes anew when it is installed again.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/usr/local/share/host-certificates.crt"
node=$(command -v node)
npm_root=$(npm root -g 2>/dev/null)
install -D -m 755 "$(readlink -f "$node")" "$root/usr/local/bin/node"
mkdir -p "$root/usr/local/lib/node_modules"
cp -aL "$npm_root/npm" "$root/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
# Headers of this node, which node-addon-api's build would find in the official image too.
[ -d /usr/include/node ] && mkdir -p "$root/usr/local/include" && cp -aL /usr/include/node "$root/usr/local/include/node"
# Shared libraries node needs beyond Debian's minimum.
ldd "$(readlink -f "$node")" | awk '/=> \//{print $3}' | while read -r library; do
  [ -e "$root$library" ] || install -D "$(readlink -f "$library")" "$root$library"
done
printf 'cafile=/usr/local/share/host-certificates.crt\nupdate-notifier=false\n' >"$root/root/.npmrc"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$root" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --env NODE_EXTRA_CA_CERTS=/usr/local/share/host-certificates.crt "$container"
buildah commit --quiet "$container" "$image" >/dev/null
buildah rm "$container" >/dev/null
echo "base: $image ready"
