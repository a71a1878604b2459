"""The compiled scheduler and kernels; everything else about the package is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import _StaticPth, editable_wheel

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds the extensions with CMake, and with Ninja where there is one."""

    def build_extension(self, ext: Extension) -> None:
        module = ext.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        configure = [
            "cmake",
            *("-S", str(ROOT)),
            *("-B", str(build)),
            "-DGFNET_PYTHON=ON",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_INSTALL_PREFIX={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        # An earlier build may have been configured by a cmake or ninja of a build environment that is gone.
        shutil.rmtree(build, ignore_errors=True)
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        subprocess.run(configure, check=True)
        jobs = ["--parallel", str(self.parallel)] if self.parallel else []
        subprocess.run(
            ["cmake", "--build", str(build), "--config", "Release", "--target", module, *jobs],
            check=True,
        )
        subprocess.run(["cmake", "--install", str(build), "--component", module], check=True)


class Editable(editable_wheel):
    """Two paths, where setuptools makes a finder of two folders, which type checkers cannot follow."""

    def _select_strategy(self, name: str, tag: str, build_lib: Any) -> Any:
        return _StaticPth(self.distribution, name, [ROOT, ROOT / "kernels"])


setup(
    ext_modules=[Extension(name, sources=[]) for name in ("gfnet_fast._scheduler", "gfnet_kernels._cpu")],
    cmdclass={"build_ext": CMakeBuild, "editable_wheel": Editable},
)
