"""What the application installs, and what that brings along."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "appside/pyproject.toml").read_text())["project"]

# Everything but the modules that stand for an extra, in an interpreter that finds only what the distribution names.
IMPORTS = """
import importlib, pkgutil, sys
allowed = {"sqlalchemy", "typing_extensions", "greenlet", "cbk_app"}

class Others:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if not top.startswith("_") and top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Others())
import cbk_app
extras = ("cbk_app.django", "cbk_app.stores.s3", "cbk_app.stores.azure", "cbk_app.stores.gcs", "cbk_app.__main__")
for module in pkgutil.walk_packages(cbk_app.__path__, "cbk_app."):
    if not module.name.startswith(extras):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_it_runs_on_sqlalchemy_and_the_standard_library():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cbk_app.main" in done.stdout.split()


def test_it_needs_sqlalchemy_alone():
    assert [need.split(">")[0] for need in PROJECT["dependencies"]] == ["sqlalchemy"]
    assert set(PROJECT["optional-dependencies"]) == {"azure", "django", "gcs", "postgresql", "s3"}


def test_it_is_of_the_kits_version():
    kit = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (PROJECT["version"], PROJECT["requires-python"]) == (kit["version"], kit["requires-python"])
