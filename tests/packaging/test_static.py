"""Shows that the API page's files are in the package that is installed, with the licence of what was not made here."""

from __future__ import annotations

import hashlib
import zipfile
from importlib.resources import files
from pathlib import Path

from reflexd.api.api_page import FILES
from tests.daemons import ROOT
from tests.distributions import run_python

PUBLISHED = {
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""SHA-256 of files of the published package swagger-ui-dist 5.35.0; a newer version changes them all, on purpose."""
LICENCES = {"swagger-ui/LICENSE", "swagger-ui/NOTICE", "swagger-ui/swagger-ui-bundle.js.LICENSE.txt"}


def test_each_file_of_the_page_is_a_resource_of_the_package() -> None:
    for name, _ in FILES.values():
        assert (files("reflexd") / "static" / name).is_file(), name


def test_what_was_not_made_here_is_as_it_was_published() -> None:
    folder = ROOT / "reflexd" / "static" / "swagger-ui"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == PUBLISHED


def test_the_wheel_holds_the_page_and_its_licences(tmp_path: Path) -> None:
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("reflexd/static/") for name in archive.namelist() if "/static/" in name}
        page = archive.read("reflexd/static/index.html")
    assert {name for name, _ in FILES.values()} | LICENCES <= held
    assert page == (ROOT / "reflexd" / "static" / "index.html").read_bytes()
