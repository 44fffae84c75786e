#!/bin/sh
# Prometheus, promtool, Alertmanager and amtool as Debian packs them, unpacked into build/prometheus:
# nothing is installed on the machine.
set -eu
root=$PWD/build/prometheus
[ -x "$root/usr/bin/prometheus" ] && [ -x "$root/usr/bin/amtool" ] && exit 0
command -v apt-get >/dev/null || { echo "this is no Debian: put prometheus and amtool on PATH" >&2; exit 1; }
mkdir -p "$root/archives"
cd "$root/archives"
apt-get --quiet download prometheus prometheus-alertmanager
for archive in ./*.deb; do
    dpkg -x "$archive" "$root"
done
rm -f ./*.deb
