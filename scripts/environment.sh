# Sourced by the scripts beside it: a virtual environment with this package in it.

# The first Python that fits: python3.11 (what the project is developed on), else any python3 >= 3.10.
find_python() {
    local candidate
    for candidate in python3.11 python3 python3.13 python3.12 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python >= 3.10, < 3.14 found (tried python3.11, python3, python3.13, python3.12, python3.10)." >&2
    return 1
}

# create_environment FOLDER REQUIREMENT: make or reuse the environment, and install REQUIREMENT (a path) into it.
create_environment() {
    local folder=$1 requirement=$2 python
    python=$(find_python)
    if [ ! -x "$folder/bin/python" ]; then
        echo "+ $python -m venv $folder"
        "$python" -m venv "$folder"
    fi
    install_small_torch "$folder/bin/python"
    # The newest torchvision (nnU-Net's architectures want one) would replace the torch that is there.
    "$folder/bin/python" - >"$folder/constraints.txt" <<'END'
from importlib.metadata import distributions
print("".join(f"torch=={d.version}" for d in distributions() if d.name == "torch"))
END
    echo "+ pip install $requirement $(cat "$folder/constraints.txt")"
    "$folder/bin/python" -m pip install -qq -c "$folder/constraints.txt" "$requirement" || {
        echo "+ pip install $requirement (that torch does not fit; again with the registry's)"
        "$folder/bin/python" -m pip install -qq "$requirement"
    }
}

# Without a GPU the CUDA build of torch is gigabytes for nothing. A CPU build that pip finds in a local folder of wheels is
# taken, else torch's own CPU index; if neither is there, nothing happens and the registry's build comes with the rest.
install_small_torch() {
    local python=$1
    if command -v nvidia-smi >/dev/null || "$python" -c 'import torch' 2>/dev/null; then
        return
    fi
    echo "+ pip install torch (CPU build, if there is one)"
    "$python" -m pip install --quiet --no-deps --no-index torch 2>/dev/null ||
        "$python" -m pip install --quiet --no-deps --timeout 15 --retries 0 \
            --index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null ||
        echo "  none; the registry's build comes with the rest"
}
