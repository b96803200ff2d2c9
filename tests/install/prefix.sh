#!/bin/sh
# Installs a build into an empty folder:  prefix.sh BUILD PREFIX
set -eu
rm -rf "$2"
cmake --install "$1" --prefix "$2" >/dev/null
find "$2" -type f -o -type l | sed "s|^$2/||" | sort
