#!/bin/sh
# Makes .venv in the bundle's folder from the machine's own packages and the bundle's wheels. It needs no network.
# PYTHON names the Python that has torch; the default is python3.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
wanted=$(sed -n 's/.*"python": "\(.*\)".*/\1/p' bundle.json)
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$found" != "$wanted" ]; then
    echo "Error: the bundle is for Python $wanted, but $python is $found. PYTHON=... names another one." >&2
    exit 1
fi
rm -rf .venv
"$python" -m venv --without-pip .venv
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# What the machine has comes after what the bundle brings.
"$python" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' >"$packages/machine.pth"
echo "$PWD/src" >"$packages/source.pth"
# Python compiles what it imports. pip would compile all, which took 40 s of the minutes that a card is there.
"$python" -m pip --disable-pip-version-check --python .venv/bin/python install --quiet --no-index --no-deps --no-compile \
    wheels/*.whl
touch .venv/installed .venv/installed-dev
.venv/bin/python -m benchmarks.gpu.bundle --check
echo "Next: make test-gpu. Without make: .venv/bin/python -m pytest tests/gpu"
