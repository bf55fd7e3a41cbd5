"""Fixtures that several folders of tests share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Runs of one test must not find what those of another have kept.
os.environ["SPENDFLOPS_FEATURES"] = ""


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """Builds and installs a distribution into a folder of its own, beside what is installed; gives a way to run there.

    The sources are copied first: a build leaves files behind. A run starts in an empty folder, so that nothing but what
    was installed can be imported.
    """

    def build(source: Path):
        copy, target, empty = (tmp_path_factory.mktemp(name) for name in ("source", "target", "empty"))
        shutil.copytree(source, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.egg-info", "build", ".*"))
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(copy)]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode and "Could not find a version that satisfies the requirement setuptools" in done.stderr:
            pytest.skip("pip finds no setuptools to build with")
        assert done.returncode == 0, done.stderr
        path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}

        def run(*command: str) -> subprocess.CompletedProcess:
            done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done

        return run

    return build
