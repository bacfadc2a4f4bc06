"""Decides how tests install plugins (into a folder that PYTHONPATH names: the environment stays) and make wheels."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.daemons import ROOT

EXAMPLE = ROOT / "plugins" / "example"


def run_python(*words: str | Path) -> str:
    """Run this Python with these arguments and return what it printed; fail when it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install_example(folder: Path) -> Path:
    """Build the wheel of plugins/example and install it into a new folder, both without any network."""
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", EXAMPLE)
    (wheel,) = (folder / "dist").iterdir()
    site = folder / "site"
    run_python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    return site


def write_plugin(site: Path, name: str, source: str) -> None:
    """Lay an installed distribution `stranger-NAME 1.0` with one plugin into a folder, as pip would."""
    module = f"stranger_{name}"
    (site / f"{module}.py").write_text(source)
    record = site / f"{module}-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[reflexd]\n{name} = {module}\n")


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str | Path], requires: Sequence[str] = ()
) -> Path:
    """Write a wheel that holds these texts and files, and asks for other distributions."""
    stem = f"{name.replace('-', '_')}-{version}"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    about = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    rows = "".join(f"{member},,\n" for member in (*files, *about, record))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, **about, record: rows}.items():
            if isinstance(content, Path):
                archive.write(content, member)
            else:
                archive.writestr(member, content)
    return path
