"""Shows that the API page's files are in the package that is installed, with the licence of what was not made here."""

from __future__ import annotations

import zipfile
from importlib.resources import files
from pathlib import Path

from reflexd.api.api_page import FILES
from tests.daemons import ROOT
from tests.distributions import run_python

LICENCES = {"swagger-ui/LICENSE", "swagger-ui/NOTICE", "swagger-ui/swagger-ui-bundle.js.LICENSE.txt"}


def test_each_file_of_the_page_is_a_resource_of_the_package() -> None:
    for name, _ in FILES.values():
        assert (files("reflexd") / "static" / name).is_file(), name


def test_the_wheel_holds_the_page_and_its_licences(tmp_path: Path) -> None:
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("reflexd/static/") for name in archive.namelist() if "/static/" in name}
        page = archive.read("reflexd/static/index.html")
    assert {name for name, _ in FILES.values()} | LICENCES <= held
    assert page == (ROOT / "reflexd" / "static" / "index.html").read_bytes()
