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
# torch comes with nnU-Net as the registry's own build, also without a GPU: torchvision, which nnU-Net's architectures
# want, is published for that build alone.
create_environment() {
    local folder=$1 requirement=$2 python
    python=$(find_python)
    if [ ! -x "$folder/bin/python" ]; then
        echo "+ $python -m venv $folder"
        "$python" -m venv "$folder"
    fi
    echo "+ pip install $requirement"
    "$folder/bin/python" -m pip install -qq "$requirement"
}
