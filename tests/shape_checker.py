"""The type checker that executes annotations during tests (see ``pyproject.toml``)."""

from beartype import BeartypeConf, beartype

# An int is a float, as mypy and PEP 484 have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
