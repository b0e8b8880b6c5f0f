"""Brings conf/ and sweeps/ into the wheel as lowrung/shipped/; all else about the package is in pyproject.toml.

They lie beside src/, where people read and change them, and package-data takes no file from outside a package.
An editable install needs no copy: `lowrung.store.layout` then finds the folders themselves.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the two folders beside the package's modules."""

    def run(self) -> None:
        """See `setuptools.Command`."""
        super().run()
        if not self.editable_mode:
            shipped = Path(self.build_lib, "lowrung", "shipped")
            shutil.rmtree(shipped, ignore_errors=True)  # what an earlier build left, and a file since deleted
            for name in ("conf", "sweeps"):
                shutil.copytree(name, shipped / name)


setup(cmdclass={"build_py": BuildWithConfigs})
