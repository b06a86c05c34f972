"""One FAISS, the right kernels of its BLAS, and one thread a query."""

from __future__ import annotations

import subprocess
import sys
import threading

import faiss
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from engine.errors import IndexUnsupported
from engine.libraries import core_type, installed, require_one_faiss, use_one_thread


@pytest.mark.parametrize(
    ("flags", "kernels"),
    [("fpu avx2 avx512f avx512bw", "SkylakeX"), ("fpu avx avx2 fma", "Haswell"), ("fpu avx", None), ("", None)],
)
def test_the_kernels_are_the_newest_that_the_processor_has(flags, kernels):
    assert core_type(flags) == kernels


def test_several_packages_that_bring_faiss_are_refused_by_name():
    require_one_faiss(["faiss-cpu"])
    require_one_faiss(["faiss-cpu", "faiss-cpu"])
    with pytest.raises(IndexUnsupported, match="faiss-cpu, faiss-gpu are all installed"):
        require_one_faiss(["faiss-gpu", "faiss-cpu"])


def test_distributions_that_are_there_are_found_by_name():
    assert installed(["faiss-cpu", "no-such-distribution", "numpy"]) == ["faiss-cpu", "numpy"]


PROGRAM = """
import os, sys
import engine.libraries
from threadpoolctl import threadpool_info
print(os.environ.get("OPENBLAS_CORETYPE"))
for each in threadpool_info():
    if each["user_api"] == "blas":
        print("faiss" if "faiss" in each["filepath"] else "numpy", each.get("architecture"))
"""


@pytest.mark.parametrize("given", [None, "Haswell"])
def test_an_environment_that_names_kernels_is_left_alone_and_another_is_not_changed(given):
    import os

    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    if given is not None:
        environment["OPENBLAS_CORETYPE"] = given
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    found, *libraries = done.stdout.split("\n")[:-1]
    assert found == str(given)
    from engine.libraries import _flags

    expected = given or core_type(_flags())
    of_faiss = [each.partition(" ")[2] for each in libraries if each.startswith("faiss")]
    if expected is not None and of_faiss:
        assert of_faiss == [expected]


def test_a_serving_thread_uses_one_thread_of_each_library():
    with threadpool_limits():
        found = {}

        def serve():
            use_one_thread()
            found["faiss"] = faiss.omp_get_max_threads()
            found["blas"] = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        assert found == {"faiss": 1, "blas": {1}}
