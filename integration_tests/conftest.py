"""What the integration tests share: one thread, and fresh virtual environments."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # as in tests/, whose conftest may not be loaded
SHARED = Path(__file__).parents[2] / "shared" / "data"
os.environ.setdefault("ROBUSTLABELS_TEST_DATA", str(SHARED))


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and how to run things in it."""

    folder: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, from an empty folder, without our variables."""
        env = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ROBUSTLABELS_PLUGINS")
        }
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            env=env | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            cwd=self.folder,
            timeout=900,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def python(self, code: str) -> str:
        """Run code with the environment's Python; returns its stdout."""
        return self.run("python", "-c", code).stdout


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Environment]:
    """Makes fresh environments with pip, which see the packages of the running one.

    They are shared by a ``.pth`` file, so that torch need not be installed again, and processed as
    a site folder, so that an editable robustlabels counts too. What is installed in the fresh
    environment is seen by it alone.
    """

    def make(name: str) -> Environment:
        folder = tmp_path_factory.mktemp(name)
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site_packages = folder / "lib" / python / "site-packages"
        parent = sysconfig.get_paths()["purelib"]
        (site_packages / "zz_parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
        return Environment(folder)

    return make
