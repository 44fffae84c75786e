#!/bin/sh
# Prints a Python that Atelier can run on: 3.11 or 3.12, with venv, and with the shared libpython
# that the embedded Triton needs. PYTHON, if set, is the only one tried.

check='
import sys
if not (3, 11) <= sys.version_info < (3, 13): sys.exit("it is %d.%d" % sys.version_info[:2])
try: import ensurepip, venv
except ImportError: sys.exit("it has no venv (Debian, Ubuntu: apt install python3-venv)")
import ctypes, os, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
for path in (os.path.join(sysconfig.get_config_var("LIBDIR") or "", name), name):
    try: ctypes.CDLL(path); break
    except OSError: pass
else: sys.exit("it has no %s, which Triton needs (Debian, Ubuntu: apt install %s)" % (name, name[:-7]))
'

why=""
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.12 python3.11 python3; fi
for candidate in "$@"; do
    found=$(command -v "$candidate") || continue
    if said=$("$found" -c "$check" 2>&1); then
        echo "$found"
        exit 0
    fi
    why="$why
  $found: $(echo "$said" | tail -n 1)"
done
echo "No suitable Python. Atelier needs 3.11 or 3.12; name one with PYTHON=/path/to/python.${why:-
  None was found on PATH.}" >&2
exit 1
